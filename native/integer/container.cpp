#include "container.h"

#include <algorithm>
#include <string_view>

#include "json.h"
#include "refusal.h"
#include "sha256.h"

namespace adderkit {
namespace {

struct Dtype {
  adderkit_dtype dtype;
  const char* name;
  int64_t size;
};
// Those that a file may have; layers' outputs have two more.
constexpr Dtype dtypes[] = {
    {ADDERKIT_U8, "U8", 1}, {ADDERKIT_I8, "I8", 1}, {ADDERKIT_I32, "I32", 4}, {ADDERKIT_I64, "I64", 8}};

constexpr int64_t length_bytes = 8, digest_digits = 64, most_axes = 4;
constexpr std::string_view format = "adderkit-integer-network";

const char* kind_name(json::Kind kind) {
  const char* const names[] = {"null",   "true or false", "a number", "a number",
                               "a text", "an array",      "an object"};
  return names[static_cast<int>(kind)];
}

json::Node metadata_of(json::Node root) {
  if (root->kind == json::Kind::object)
    for (json::Node key = root.first(); key.is_before_end_of(root); key = key.next().next())
      if (key->text == "__metadata__" && key.next()->kind == json::Kind::object) return key.next();
  refuse("is no integer network of adderkit: its header has no object `__metadata__`");
}

// The text under `key`.
std::string_view text_of(json::Node metadata, const char* wanted) {
  for (json::Node key = metadata.first(); key.is_before_end_of(metadata); key = key.next().next())
    if (key->text == wanted && key.next()->kind == json::Kind::text) return key.next()->text;
  refuse("is no integer network of adderkit: `__metadata__` in its header has no text `%s`", wanted);
}

void check_format(json::Node metadata) {
  const std::string_view found = text_of(metadata, "format"), version = text_of(metadata, "version");
  if (found != format)
    refuse("is no integer network of adderkit: `format` (=%s) must be %s", shown(found).c_str(),
           format.data());
  if (version == std::to_string(file_version)) return;
  const bool is_number = !version.empty() && version.size() < 10 && version[0] != '0' &&
                         version.find_first_not_of("0123456789") == std::string_view::npos;
  if (is_number)
    refuse(
        "has `version` %s of the format, and this library reads version %d: it was written by a newer "
        "adderkit; "
        "update this one",
        std::string(version).c_str(), static_cast<int>(file_version));
  refuse("has the `version` %s of the format, which is none: this library reads version %d",
         shown(version).c_str(), static_cast<int>(file_version));
}

std::string digest(const uint8_t* bytes, int64_t size, int64_t digits_at) {
  const std::string zeros(digest_digits, '0');
  Sha256 sum;
  sum.add(bytes, digits_at);
  sum.add(zeros.data(), digest_digits);
  sum.add(bytes + digits_at + digest_digits, size - digits_at - digest_digits);
  return sum.digits();
}

// Where the last array ends, as far as the header can be believed: to say of a file that it is cut short.
int64_t wanted_data(json::Node root) {
  int64_t end = 0;
  for (json::Node key = root.first(); key.is_before_end_of(root); key = key.next().next()) {
    if (key.next()->kind != json::Kind::object) continue;
    const json::Node entry = key.next();
    for (json::Node field = entry.first(); field.is_before_end_of(entry); field = field.next().next())
      if (field->text == "data_offsets" && field.next()->kind == json::Kind::array)
        for (json::Node offset : field.next().elements()) end = std::max(end, offset->integer);
  }
  return end;
}

void check_digest(const uint8_t* bytes, int64_t size, int64_t header_end, json::Node root,
                  json::Node metadata) {
  const std::string_view digits = text_of(metadata, "sha256");
  // A text with escapes lies outside the file. Comparing pointers into two objects would be undefined.
  const auto begin = reinterpret_cast<uintptr_t>(bytes), there = reinterpret_cast<uintptr_t>(digits.data());
  const bool is_in_file = there >= begin && there < begin + static_cast<uintptr_t>(header_end);
  if (static_cast<int64_t>(digits.size()) != digest_digits || !is_in_file ||
      digits.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    refuse("is damaged or was altered: `sha256` (=%s) must be 64 digits 0-9 and a-f",
           shown(digits, 70).c_str());
  const std::string found = digest(bytes, size, static_cast<int64_t>(there - begin));
  if (found == digits) return;
  const int64_t data = size - header_end, wanted = wanted_data(root);
  if (data < wanted)
    refuse("is damaged: it is cut short, to %lld of %lld bytes of arrays", static_cast<long long>(data),
           static_cast<long long>(wanted));
  refuse("is damaged or was altered: its SHA-256 is %s, but was %s when it was written", found.c_str(),
         std::string(digits).c_str());
}

int64_t whole(json::Node node, int64_t low, int64_t high, const std::string& where) {
  if (node->kind != json::Kind::integer || node->integer < low || node->integer > high)
    refuse("%s (=%s) must be a whole number from %lld to %lld", where.c_str(), shown(node->text).c_str(),
           static_cast<long long>(low), static_cast<long long>(high));
  return node->integer;
}

std::vector<json::Node> several(json::Node node, const std::string& where) {
  if (node->kind != json::Kind::array)
    refuse("%s must be an array, is %s", where.c_str(), kind_name(node->kind));
  return node.elements();
}

struct Entry {
  Array array;
  int64_t begin, end;
  const std::string* name;
};

Entry entry_of(json::Node object, const std::string& name, int64_t data) {
  const std::string where = "the array `" + shown(name) + "`";
  if (object->kind != json::Kind::object)
    refuse("%s must be an object in the header, is %s", where.c_str(), kind_name(object->kind));
  Entry entry{};
  bool has_dtype = false, has_shape = false, has_offsets = false;
  for (json::Node key = object.first(); key.is_before_end_of(object); key = key.next().next()) {
    const json::Node value = key.next();
    if (key->text == "dtype") {
      const Dtype* const found = std::find_if(std::begin(dtypes), std::end(dtypes),
                                              [&](const Dtype& d) { return value->text == d.name; });
      if (value->kind != json::Kind::text || found == std::end(dtypes))
        refuse("%s: `dtype` (=%s) must be one of U8, I8, I32, I64", where.c_str(),
               shown(value->text).c_str());
      entry.array.dtype = found->dtype;
      has_dtype = true;
    } else if (key->text == "shape") {
      for (json::Node axis : several(value, where + ": `shape`"))
        entry.array.shape.push_back(whole(axis, 1, largest_file, where + ": `shape`"));
      if (entry.array.shape.empty() || static_cast<int64_t>(entry.array.shape.size()) > most_axes)
        refuse("%s: `shape` (=%s) must have 1 to 4 axes", where.c_str(), shown(value->text).c_str());
      has_shape = true;
    } else if (key->text == "data_offsets") {
      const std::vector<json::Node> both = several(value, where + ": `data_offsets`");
      if (both.size() != 2)
        refuse("%s: `data_offsets` (=%s) must be two numbers, begin and end", where.c_str(),
               shown(value->text).c_str());
      entry.begin = whole(both[0], 0, data, where + ": `data_offsets`");
      entry.end = whole(both[1], entry.begin, data, where + ": `data_offsets`");
      has_offsets = true;
    } else {
      refuse("%s: `%s` is unknown; allowed: dtype, shape, data_offsets", where.c_str(),
             shown(key->text).c_str());
    }
  }
  if (!has_dtype || !has_shape || !has_offsets)
    refuse("%s lacks %s in the header", where.c_str(),
           has_dtype ? has_shape ? "`data_offsets`" : "`shape`" : "`dtype`");
  return entry;
}

void check_size(const Entry& entry) {
  int64_t size = size_of(entry.array.dtype);
  for (int64_t axis : entry.array.shape) {
    size *= axis;  // at most 2^30 * 2^30 before it is found to be too large
    if (size > largest_file) break;
  }
  if (size != entry.end - entry.begin)
    refuse("the array `%s`: `data_offsets` (=[%lld,%lld]) must span the bytes of its shape and dtype",
           shown(*entry.name).c_str(), static_cast<long long>(entry.begin),
           static_cast<long long>(entry.end));
  if (entry.begin % size_of(entry.array.dtype) != 0)
    refuse("the array `%s`: `data_offsets` (=[%lld,%lld]) must begin at a multiple of %lld, the size of %s",
           shown(*entry.name).c_str(), static_cast<long long>(entry.begin), static_cast<long long>(entry.end),
           static_cast<long long>(size_of(entry.array.dtype)), name_of(entry.array.dtype));
}

void read_arrays(json::Node root, const uint8_t* data, int64_t size, Container* out) {
  std::vector<Entry> entries;
  for (json::Node key = root.first(); key.is_before_end_of(root); key = key.next().next()) {
    if (key->text == "__metadata__") continue;
    const auto made = out->arrays.emplace(key->text, Array{}).first;
    Entry entry = entry_of(key.next(), made->first, size);
    entry.name = &made->first;
    check_size(entry);
    entry.array.bytes = data + entry.begin;
    entry.array.size = entry.end - entry.begin;
    made->second = entry.array;
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  int64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end)
      refuse("the array `%s`: `data_offsets` (=[%lld,%lld]) must begin at %lld, where the one before ends",
             shown(*entry.name).c_str(), static_cast<long long>(entry.begin),
             static_cast<long long>(entry.end), static_cast<long long>(end));
    end = entry.end;
  }
  if (end != size)
    refuse("has %lld bytes that belong to no array, after the last one", static_cast<long long>(size - end));
}

}  // namespace

const char* name_of(adderkit_dtype dtype) {
  for (const Dtype& row : dtypes)
    if (row.dtype == dtype) return row.name;
  return "";
}

int64_t size_of(adderkit_dtype dtype) {
  for (const Dtype& row : dtypes)
    if (row.dtype == dtype) return row.size;
  return 0;
}

Container read_container(const uint8_t* bytes, int64_t size) {
  if (size < length_bytes + 2)
    refuse("is no integer network of adderkit: it has %lld bytes", static_cast<long long>(size));
  if (size > largest_file) refuse("has %lld bytes; allowed are 2^30 (1 GiB)", static_cast<long long>(size));
  uint64_t length = 0;
  for (int64_t k = 0; k < length_bytes; ++k) length |= static_cast<uint64_t>(bytes[k]) << (8 * k);
  if (length < 2 || length > static_cast<uint64_t>(largest_header) || length % 8 != 0)
    refuse(
        "is no integer network of adderkit, or is damaged: its first 8 bytes give a header of %llu bytes, "
        "which must "
        "be a multiple of 8 up to 2^24",
        static_cast<unsigned long long>(length));
  const int64_t header_end = length_bytes + static_cast<int64_t>(length);
  if (header_end > size)
    refuse(
        "is no integer network of adderkit, or is damaged: it has %lld bytes, and its first 8 give a header "
        "of %llu",
        static_cast<long long>(size), static_cast<unsigned long long>(length));
  const json::Document header(
      {reinterpret_cast<const char*>(bytes) + length_bytes, static_cast<size_t>(length)}, "the header");
  const json::Node root = header.root(), metadata = metadata_of(root);
  for (json::Node key = metadata.first(); key.is_before_end_of(metadata); key = key.next().next())
    if (key.next()->kind != json::Kind::text)
      refuse("`%s` of `__metadata__` in the header must be a text, is %s", shown(key->text).c_str(),
             kind_name(key.next()->kind));
  check_format(metadata);
  check_digest(bytes, size, header_end, root, metadata);
  Container out;
  out.network = text_of(metadata, "network");
  read_arrays(root, bytes + header_end, size - header_end, &out);
  return out;
}

}  // namespace adderkit
