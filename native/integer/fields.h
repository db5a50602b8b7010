// The keys of one JSON object, each asked for by name and range.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json.h"

namespace adderkit {

class Fields {
 public:
  // `where` goes before the key in messages: "" or "layers[3].". Throws a Refusal unless `object` is one.
  Fields(json::Node object, std::string where);

  bool has(const char* key) const;
  // All of these throw a Refusal where the key is missing or its value is none that is allowed.
  int64_t whole(const char* key, int64_t low, int64_t high) const;
  bool boolean(const char* key) const;
  std::string text(const char* key) const;  // without NUL: C programs read it
  std::vector<json::Node> elements(const char* key) const;
  // An array of two whole numbers.
  void pair(const char* key, int64_t low, int64_t high, int32_t out[2]) const;

  // Throws a Refusal for a key that none of the calls above has asked for.
  void refuse_others() const;

  const std::string& where() const { return where_; }

 private:
  json::Node value(const char* key) const;

  json::Node object_;
  std::string where_;
  mutable std::vector<std::string> asked_;
};

}  // namespace adderkit
