//! A set beside one of the standard library's.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use vm_memory::GuestAddress;

/// Regions of odd sizes: 70, 64 and 3 pages, the last two side by side.
const REGIONS: [(u64, u64); 3] = [(0, 70), (0x10_0000, 64), (0x10_0040, 3)];

fn none() -> PageSet {
    let ranges = REGIONS.map(|(first, pages)| (GuestAddress(first * PAGE), (pages * PAGE) as usize));
    PageSet::new(&GuestRam::from_ranges(&ranges).unwrap())
}

fn set_of(pages: &BTreeSet<u64>) -> PageSet {
    let mut set = none();
    assert!(pages.iter().all(|page| set.insert(*page)));
    set
}

/// What is in it, asked page by page.
fn pages_of(set: &PageSet) -> BTreeSet<u64> {
    let all = REGIONS.iter().flat_map(|(first, pages)| *first..first + pages);
    all.filter(|page| set.contains(*page)).collect()
}

fn any_pages() -> impl Strategy<Value = BTreeSet<u64>> {
    let page = prop::sample::select(REGIONS.to_vec()).prop_flat_map(|(first, pages)| first..first + pages);
    let run = (page, 1..70_u64);
    prop::collection::vec(run, 0..12).prop_map(|runs| {
        let inside = |page: &u64| REGIONS.iter().any(|(first, pages)| (*first..first + pages).contains(page));
        runs.into_iter().flat_map(|(first, pages)| first..first + pages).filter(inside).collect()
    })
}

proptest! {
    #[test]
    fn it_is_a_set(one in any_pages(), two in any_pages()) {
        let (a, b) = (set_of(&one), set_of(&two));
        prop_assert_eq!(pages_of(&a), one.clone());
        prop_assert_eq!((a.count(), a.is_empty()), (one.len() as u64, one.is_empty()));
        let mut set = a.clone();
        set.union(&b);
        prop_assert_eq!(pages_of(&set), &one | &two);
        set.subtract(&b);
        prop_assert_eq!(pages_of(&set), &one - &two);
        set.copy_from(&a);
        set.intersect(&b);
        prop_assert_eq!(pages_of(&set), &one & &two);
        set.clear();
        prop_assert_eq!(set, none());
    }

    #[test]
    fn its_runs_are_its_pages_and_are_as_long_as_can_be(pages in any_pages()) {
        let set = set_of(&pages);
        let runs: Vec<_> = set.runs().collect();
        let of_runs: Vec<_> = runs.iter().flat_map(|run| run.first..run.first + run.pages).collect();
        prop_assert_eq!(of_runs, pages.into_iter().collect::<Vec<_>>());
        for pair in runs.windows(2) {
            prop_assert!(pair[0].region < pair[1].region || pair[0].first + pair[0].pages < pair[1].first);
        }
        for run in runs {
            prop_assert_eq!(run.first, REGIONS[run.region].0 + run.offset);
            prop_assert!(run.offset + run.pages <= REGIONS[run.region].1);
        }
    }

    #[test]
    fn it_comes_over_the_wire(pages in any_pages(), before in any_pages()) {
        let set = set_of(&pages);
        let bytes = set.ranges();
        prop_assert!(bytes.len() <= set.most_range_bytes());
        prop_assert_eq!(&none().from_ranges(&bytes).unwrap(), &set);
        let mut into = set_of(&before);
        into.insert_ranges(&bytes).unwrap();
        prop_assert_eq!(pages_of(&into), &pages | &before);
    }

    /// The oracle reads the list as anyone would, range by range, with 128 bits.
    #[test]
    fn what_is_no_set_is_refused_and_changes_nothing(
        mut ranges in prop::collection::vec((0..0x10_0050_u64, 0..80_u64), 0..4),
        wild in prop::option::of((any::<u64>(), any::<u64>())),
        cut in 0..16_usize,
    ) {
        ranges.extend(wild);
        let mut bytes: Vec<_> =
            ranges.iter().flat_map(|(first, pages)| [first.to_be_bytes(), pages.to_be_bytes()]).flatten().collect();
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        let inside = |first: u64, pages: u64| REGIONS.iter().any(|(start, len)| {
            pages > 0 && first >= *start && u128::from(first) + u128::from(pages) <= u128::from(start + len)
        });
        let good = bytes.len() == ranges.len() * RANGE_BYTES
            && ranges.iter().all(|(first, pages)| inside(*first, *pages))
            && ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
        let mut set = none();
        let done = set.insert_ranges(&bytes);
        prop_assert_eq!(done.is_ok(), good, "{:?}", done);
        prop_assert!(done.is_ok() || set.is_empty());
        prop_assert_eq!(none().from_ranges(&bytes).err(), done.err());
    }

    #[test]
    fn a_bitmap_is_absorbed_as_far_as_there_are_pages(
        region in 0..4_usize,
        bitmap in prop::collection::vec(any::<u64>(), 0..4),
        before in any_pages(),
    ) {
        let mut set = set_of(&before);
        set.absorb(region, &bitmap);
        let mut expected = before;
        if let Some((first, pages)) = REGIONS.get(region) {
            let bit = |page: &u64| bitmap.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1);
            expected.extend((0..*pages).filter(bit).map(|page| first + page));
        }
        prop_assert_eq!(set.count(), expected.len() as u64, "no bit stands for no page");
        prop_assert_eq!(pages_of(&set), expected);
    }
}

#[test]
fn what_is_no_ram_is_no_page() {
    let mut set = none();
    for page in [70, 0xf_ffff, 0x10_0043, u64::MAX] {
        assert!(!set.insert(page) && !set.contains(page), "{page:#x}");
    }
    assert!(!set.insert_run(69, 2) && !set.insert_run(3, 0) && !set.insert_run(3, u64::MAX));
    assert!(!set.insert_run(0x10_003f, 2), "these are pages of two regions");
    assert!(!set.insert_in(0, 70) && !set.insert_in(3, 0));
    assert!(set.is_empty());
    assert!(set.insert_in(1, 63) && set.contains(0x10_003f));
}

#[test]
fn it_can_be_full() {
    let mut set = none();
    set.fill();
    assert_eq!((set.count(), set.capacity()), (137, 137));
    let runs: Vec<_> = set.runs().map(|run| (run.first, run.pages)).collect();
    assert_eq!(runs, REGIONS);
    let text = set.from_ranges(&[0; 16 * 70]).unwrap_err().to_string();
    assert!(text.contains("1120 bytes") && text.contains("1104"), "{text}");
}
