//! Fixtures shared by the tests and benchmarks.
