#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <ctime>
#include <utility>

#include "controller/notify/notice.h"
#include "controller/notify/receiver.h"

namespace squall::notify {
namespace {

/// Lower-case hex of HMAC-SHA256.
std::string signature(const std::string& secret, const std::string& text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(), &size);
  std::string hex;
  for (unsigned int n = 0; n < size; ++n) hex += fmt::format("{:02x}", digest[n]);
  return hex;
}

class Webhook final : public Receiver {
 public:
  Webhook(std::string url, std::string secret) : url_(std::move(url)), secret_(std::move(secret)) {}

  std::string name() const override { return "webhook " + shown(url_); }

  std::vector<Letter> hear(const v1::Event& event, const report::Story& story) override {
    auto notice = notice_of(event, story);
    if (!notice) return {};
    const std::string id = fmt::format("{}-{}", story.run.run(), ++told_);
    Json json = {
        {"id", id},
        {"event", notice->event},
        {"at", event.at()},
        {"elapsed", event.elapsed()},
        {"run", story.run.run()},
        {"plan", story.run.plan()},
        {"file", story.run.file()},
        {"tags", std::vector<std::string>(story.run.tags().begin(), story.run.tags().end())},
        {"phase", report::phase_text(story.phase())},
        {"verdict", nullptr},
        {"sentence", notice->sentence},
        {"details", std::move(notice->details)}};
    if (event.has_run_ended()) json["verdict"] = report::verdict_text(event.run_ended().verdict());
    return {{notice->event, id, dump(json)}};
  }

  checks::Request request(const Letter& letter) const override {
    checks::Request request;
    request.url = url_;
    request.method = "POST";
    request.body = letter.body;
    request.headers = {{"Content-Type", "application/json"},
                       {"X-Squall-Event", letter.event},
                       {"Idempotency-Key", letter.id}};
    if (secret_.empty()) return request;
    // Of this attempt, so that a receiver may refuse what somebody kept and sends again.
    const std::string timestamp = std::to_string(std::time(nullptr));
    request.headers.emplace_back("X-Squall-Timestamp", timestamp);
    request.headers.emplace_back("X-Squall-Signature",
                                 "sha256=" + signature(secret_, timestamp + "." + letter.body));
    return request;
  }

 private:
  std::string url_;
  std::string secret_;
  std::uint64_t told_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<Receiver>> make_webhook(const std::string& url,
                                                 const std::string& secret) {
  if (Status fits = check_url(url); !fits.ok()) return fits;
  return std::make_unique<Webhook>(url, secret);
}

}  // namespace squall::notify
