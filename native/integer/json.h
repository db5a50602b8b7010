// A strict reader of JSON (RFC 8259) for files that nobody vouches for: UTF-8 alone, bounded depth and number
// of values, no key twice in an object.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace adderkit::json {

// Bytes of the UTF-8 character that `text` begins with; 0 where it begins with none.
size_t utf8_length(std::string_view text);

enum class Kind : uint8_t { null, boolean, integer, real, text, array, object };

// One value of a document. Those of a container follow it; in an object, each after the text that is its key.
struct Value {
  Kind kind;
  uint32_t end;           // number of the first value after this one and all in it
  int64_t integer;        // of an integer or, 0 or 1, of a boolean; whole numbers beyond int64 are `real`
  std::string_view text;  // of a text: what it says; of all others: as it is written
};

// Where a document holds a value.
class Node {
 public:
  Node(const std::vector<Value>* values, uint32_t index) : values_(values), index_(index) {}

  const Value& operator*() const { return (*values_)[index_]; }
  const Value* operator->() const { return &(*values_)[index_]; }

  // Within a container: its first value (a key, of an object), the one after this one, whether that is one.
  Node first() const { return {values_, index_ + 1}; }
  Node next() const { return {values_, (*values_)[index_].end}; }
  bool is_before_end_of(Node container) const { return index_ < container->end; }

  // Of an array.
  std::vector<Node> elements() const;

 private:
  const std::vector<Value>* values_;
  uint32_t index_;
};

class Document {
 public:
  // `source` must outlive the document. Throws a Refusal that begins with `what`.
  Document(std::string_view source, const char* what);
  Document(const Document&) = delete;
  Document& operator=(const Document&) = delete;

  Node root() const { return {&values_, 0}; }

 private:
  friend class Parser;
  std::vector<Value> values_;
  std::deque<std::string> unescaped_;  // texts that are not in `source` as they are
};

}  // namespace adderkit::json
