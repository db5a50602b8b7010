// The tests and their one way of failing.
#pragma once

// Counts and prints a failure unless `is_right`.
void expect(bool is_right, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Prints how many failures there were, if any; 1 then, else 0.
int exit_code();

// The interface apart from numbers: what is refused, threads, processes.
void test_refusals();
void test_paths();
void test_peak();
void test_calls_from_several_threads();
void test_forked_process();
