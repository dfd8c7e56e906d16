//! Fixtures that tests and benchmarks share.

pub mod bench;
pub mod bench_block;
pub mod bench_checkpoint;
pub mod bench_dirty;
pub mod bench_live;
pub mod bench_vmm;
pub mod binary;
pub mod chaos;
pub mod frames;
pub mod kernel;
pub mod lab;
pub mod log;
pub mod netns;
pub mod pcaps;

/// How many cases a property runs: `PROPTEST_CASES` if that is set (soak runs), else `usual`.
pub fn property_cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}
