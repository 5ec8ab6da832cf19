#include "tests/support/certificates.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <stdexcept>

namespace squall::support {
namespace {

template <typename T, void (*Free)(T*)>
struct Freed {
  void operator()(T* pointer) const { Free(pointer); }
};
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509, X509_free>>;

void must(bool done, const char* what) {
  if (!done) throw std::runtime_error(what);
}

Key new_key() { return Key(EVP_EC_gen("P-256")); }

template <typename Write>
std::string pem_of(Write write) {
  BIO* memory = BIO_new(BIO_s_mem());
  must(write(memory) == 1, "PEM");
  char* text = nullptr;
  const long size = BIO_get_mem_data(memory, &text);
  std::string pem(text, static_cast<std::size_t>(size));
  BIO_free(memory);
  return pem;
}

void extend(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  must(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1, "extension");
  X509_EXTENSION_free(extension);
}

Certificate new_certificate(const std::string& name, EVP_PKEY* key) {
  Certificate certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  static long serial = 0;
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
  X509_set_pubkey(certificate.get(), key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  return certificate;
}

}  // namespace

struct Authority::State {
  Key key;
  Certificate certificate;
};

Authority::Authority(const std::string& name) : state_(std::make_unique<State>()) {
  state_->key = new_key();
  state_->certificate = new_certificate(name, state_->key.get());
  X509* own = state_->certificate.get();
  X509_set_issuer_name(own, X509_get_subject_name(own));
  extend(own, own, NID_basic_constraints, "critical,CA:TRUE");
  must(X509_sign(own, state_->key.get(), EVP_sha256()) > 0, "sign");
}

Authority::~Authority() = default;

std::string Authority::pem() const {
  return pem_of([this](BIO* to) { return PEM_write_bio_X509(to, state_->certificate.get()); });
}

Pair Authority::issue(const std::string& name, const std::string& address) const {
  const Key key = new_key();
  const Certificate certificate = new_certificate(name, key.get());
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(state_->certificate.get()));
  extend(certificate.get(), state_->certificate.get(), NID_subject_alt_name, "IP:" + address);
  must(X509_sign(certificate.get(), state_->key.get(), EVP_sha256()) > 0, "sign");
  return {pem_of([&](BIO* to) { return PEM_write_bio_X509(to, certificate.get()); }),
          pem_of([&](BIO* to) {
            return PEM_write_bio_PrivateKey(to, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
          })};
}

}  // namespace squall::support
