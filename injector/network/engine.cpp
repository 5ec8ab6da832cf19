#include "injector/network/engine.h"

#include <sys/utsname.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "injector/network/effect.h"
#include "injector/network/netem.h"

namespace squall::network {
namespace {

/// A part of the kernel that may be built in, loaded, loadable or missing.
struct Part {
  std::string_view module;
  std::string_view function;  ///< In /proc/kallsyms only if it is there.
  std::string_view option;    ///< As the kernel's configuration has it.
};

constexpr Part kClassifierParts[] = {{"cls_bpf", "cls_bpf_classify", "CONFIG_NET_CLS_BPF"},
                                     {"sch_ingress", "clsact_init", "CONFIG_NET_SCH_INGRESS"},
                                     {"act_mirred", "tcf_mirred_init", "CONFIG_NET_ACT_MIRRED"}};
constexpr Part kNetemParts[] = {{"sch_netem", "netem_enqueue", "CONFIG_NET_SCH_NETEM"},
                                {"ifb", "ifb_xmit", "CONFIG_IFB"}};
constexpr Part kRelayParts[] = {{"tun", "tun_chr_open", "CONFIG_TUN"}};

/// drivers/net/ifb.ko.xz, as a line of modules.builtin or modules.dep starts with, is the module
/// ifb.
bool names_module(std::string_view line, std::string_view module) {
  line = line.substr(0, line.find(':'));
  line = line.substr(line.rfind('/') + 1);
  if (!line.starts_with(module)) return false;
  return line.substr(module.size()).starts_with(".ko");
}

bool any_line(const std::string& path, auto fits) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (fits(std::string_view(line))) return true;
  }
  return false;
}

/// What the kernel was configured with, "=y" alone; none if it does not say. zlib reads a file that
/// is not compressed as it stands.
std::optional<std::set<std::string>> configured(const std::string& release) {
  for (const std::string& path : {std::string("/proc/config.gz"), "/boot/config-" + release}) {
    const std::unique_ptr<gzFile_s, decltype(&gzclose)> file(gzopen(path.c_str(), "re"), &gzclose);
    if (!file) continue;
    std::set<std::string> options;
    std::array<char, 4096> line{};
    while (gzgets(file.get(), line.data(), static_cast<int>(line.size())) != nullptr) {
      const std::string_view text(line.data());
      if (text.ends_with("=y\n")) options.emplace(text.substr(0, text.size() - 3));
    }
    if (!options.empty()) return options;
  }
  return std::nullopt;
}

/// Which of their functions /proc/kallsyms lacks; its lines read "ffffffff81eee0c0 t
/// netem_enqueue".
std::vector<std::string_view> functions_of(std::span<const Part> parts) {
  std::vector<std::string_view> functions;
  for (const Part& part : parts) functions.push_back(part.function);
  std::ifstream file("/proc/kallsyms");
  for (std::string line; !functions.empty() && std::getline(file, line);) {
    std::string_view rest = line;
    rest = rest.substr(std::min(rest.size(), rest.find(' ') + 3));
    rest = rest.substr(0, rest.find('\t'));
    std::erase(functions, rest);
  }
  return functions;
}

/// Those that this kernel lacks.
std::vector<Part> missing(std::span<const Part> parts) {
  utsname kernel{};
  uname(&kernel);
  const std::string folder = std::string("/lib/modules/") + kernel.release + "/";
  std::vector<Part> unknown;
  for (const Part& part : parts) {
    const auto loaded = [&](std::string_view line) {
      return line.starts_with(part.module) && line.substr(part.module.size()).starts_with(' ');
    };
    const auto named = [&](std::string_view line) { return names_module(line, part.module); };
    const auto locked = [](std::string_view line) { return line == "1"; };
    if (any_line("/proc/modules", loaded) || any_line(folder + "modules.builtin", named)) continue;
    // The kernel loads these by itself when they are first asked for.
    if (any_line(folder + "modules.dep", named) &&
        !any_line("/proc/sys/kernel/modules_disabled", locked)) {
      continue;
    }
    unknown.push_back(part);
  }
  if (unknown.empty()) return {};
  if (const auto options = configured(kernel.release)) {
    std::erase_if(unknown,
                  [&](const Part& part) { return options->contains(std::string(part.option)); });
    return unknown;
  }
  const std::vector<std::string_view> absent = functions_of(unknown);
  std::erase_if(unknown, [&](const Part& part) {
    return std::find(absent.begin(), absent.end(), part.function) == absent.end();
  });
  return unknown;
}

std::string names_of(const std::vector<Part>& parts) {
  std::string text;
  for (const Part& part : parts) {
    text += (text.empty() ? "" : ", ") + std::string(part.module) + " (" +
            std::string(part.option) + ")";
  }
  return text;
}

struct Kernel {
  // All in one question: /proc/kallsyms, where it has to be asked, takes 70 ms to read.
  Kernel() {
    std::vector<Part> all(std::begin(kClassifierParts), std::end(kClassifierParts));
    all.insert(all.end(), std::begin(kNetemParts), std::end(kNetemParts));
    all.insert(all.end(), std::begin(kRelayParts), std::end(kRelayParts));
    for (const Part& part : missing(all)) {
      const auto is_among = [&](std::span<const Part> parts) {
        return std::any_of(parts.begin(), parts.end(),
                           [&](const Part& other) { return other.module == part.module; });
      };
      if (is_among(kClassifierParts)) without_classifier.push_back(part);
      if (is_among(kNetemParts)) without_netem.push_back(part);
      if (is_among(kRelayParts)) without_relay.push_back(part);
    }
  }

  std::vector<Part> without_classifier;
  std::vector<Part> without_netem;
  std::vector<Part> without_relay;
};

/// Of two ways out of a state, both cannot be taken.
Status are_chances(const Effect& effect) {
  if (!effect.four_state) return ok();
  const FourState& model = *effect.four_state;
  if (model.p13 + model.p14 > 100) {
    return error(StatusCode::kInvalidArgument, "four_state: p13 and p14 are together over 100%");
  }
  if (model.p31 + model.p32 > 100) {
    return error(StatusCode::kInvalidArgument, "four_state: p31 and p32 are together over 100%");
  }
  return ok();
}

}  // namespace

StatusOr<EngineChoice> choose_engine(const v1::Network& wanted) {
  static const Kernel kernel;
  if (!kernel.without_classifier.empty()) {
    return error(StatusCode::kUnimplemented, "this kernel cannot pick packets: it lacks " +
                                                 names_of(kernel.without_classifier));
  }
  const Effect effect = effect_of(wanted, 0);
  if (Status sound = are_chances(effect); !sound.ok()) return sound;
  std::string against_netem;
  if (!kernel.without_netem.empty()) {
    against_netem = "this kernel lacks " + names_of(kernel.without_netem);
  } else {
    against_netem = netem_lacks(effect);
  }
  const std::string against_relay =
      kernel.without_relay.empty() ? "" : "this kernel lacks " + names_of(kernel.without_relay);

  if (wanted.engine() == v1::RELAY) {
    if (against_relay.empty()) return EngineChoice{v1::RELAY, "the plan asks for it"};
    return error(StatusCode::kUnimplemented, "engine relay: " + against_relay);
  }
  if (wanted.engine() == v1::NETEM) {
    if (against_netem.empty()) return EngineChoice{v1::NETEM, "the plan asks for it"};
    return error(StatusCode::kUnimplemented, "engine netem: " + against_netem);
  }
  if (against_netem.empty()) return EngineChoice{v1::NETEM, "this kernel has it"};
  if (against_relay.empty()) return EngineChoice{v1::RELAY, against_netem};
  return error(StatusCode::kUnimplemented,
               "neither engine: for netem " + against_netem + "; for the relay " + against_relay);
}

}  // namespace squall::network
