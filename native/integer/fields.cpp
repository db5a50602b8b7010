#include "fields.h"

#include <algorithm>

#include "refusal.h"

namespace adderkit {
namespace {

[[noreturn]] void out_of_range(const std::string& where, const char* key, std::string_view found, int64_t low,
                               int64_t high) {
  refuse("`%s%s` (=%s) must be a whole number from %lld to %lld", where.c_str(), key, shown(found).c_str(),
         static_cast<long long>(low), static_cast<long long>(high));
}

bool is_whole(json::Node node, int64_t low, int64_t high) {
  return node->kind == json::Kind::integer && node->integer >= low && node->integer <= high;
}

}  // namespace

Fields::Fields(json::Node object, std::string where) : object_(object), where_(std::move(where)) {
  if (object->kind != json::Kind::object)
    refuse("`%s` (=%s) must be an object",
           where_.empty() ? "network" : where_.substr(0, where_.size() - 1).c_str(),
           shown(object->text).c_str());
}

bool Fields::has(const char* key) const {
  for (json::Node node = object_.first(); node.is_before_end_of(object_); node = node.next().next())
    if (node->text == key) return true;
  return false;
}

json::Node Fields::value(const char* key) const {
  asked_.push_back(key);
  for (json::Node node = object_.first(); node.is_before_end_of(object_); node = node.next().next())
    if (node->text == key) return node.next();
  refuse("`%s%s` is missing", where_.c_str(), key);
}

int64_t Fields::whole(const char* key, int64_t low, int64_t high) const {
  const json::Node node = value(key);
  if (!is_whole(node, low, high)) out_of_range(where_, key, node->text, low, high);
  return node->integer;
}

bool Fields::boolean(const char* key) const {
  const json::Node node = value(key);
  if (node->kind != json::Kind::boolean)
    refuse("`%s%s` (=%s) must be true or false", where_.c_str(), key, shown(node->text).c_str());
  return node->integer != 0;
}

std::string Fields::text(const char* key) const {
  const json::Node node = value(key);
  if (node->kind != json::Kind::text || node->text.find('\0') != std::string_view::npos)
    refuse("`%s%s` (=%s) must be a text without NUL", where_.c_str(), key, shown(node->text).c_str());
  return std::string(node->text);
}

std::vector<json::Node> Fields::elements(const char* key) const {
  const json::Node node = value(key);
  if (node->kind != json::Kind::array)
    refuse("`%s%s` (=%s) must be an array", where_.c_str(), key, shown(node->text).c_str());
  return node.elements();
}

void Fields::pair(const char* key, int64_t low, int64_t high, int32_t out[2]) const {
  const std::vector<json::Node> both = elements(key);
  if (both.size() != 2 || !is_whole(both[0], low, high) || !is_whole(both[1], low, high))
    refuse("`%s%s` (=%s) must be two whole numbers from %lld to %lld, vertical and horizontal",
           where_.c_str(), key, shown(value(key)->text).c_str(), static_cast<long long>(low),
           static_cast<long long>(high));
  for (int k = 0; k < 2; ++k) out[k] = static_cast<int32_t>(both[static_cast<size_t>(k)]->integer);
}

void Fields::refuse_others() const {
  for (json::Node node = object_.first(); node.is_before_end_of(object_); node = node.next().next())
    if (std::find(asked_.begin(), asked_.end(), node->text) == asked_.end())
      refuse("`%s%s` is unknown", where_.c_str(), shown(node->text).c_str());
}

}  // namespace adderkit
