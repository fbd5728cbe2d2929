//! A few workers over many items.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// How many: as there are processors, at least two.
pub(crate) fn workers() -> u32 {
    /// More would wait for the kernel's locks.
    const MOST: usize = keepline_bpf::tables::SLOTS as usize;
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    processors.clamp(2, MOST) as u32
}

/// `work` on every item, on as many threads as there are processors; results in the order of
/// the items.
pub(crate) fn map<'i, T: Sync, R: Send>(
    items: &'i [T],
    work: impl Fn(&'i T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..(workers() as usize).min(items.len()) {
            scope.spawn(|| {
                while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed))
                    && let Some(item) = items.get(at)
                {
                    let result = work(item);
                    *results[at].lock().expect("no other worker has this item") = Some(result);
                }
            });
        }
    });
    results
        .into_iter()
        .map(|slot| slot.into_inner().ok().flatten().expect("every item was worked on"))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_keep_the_order() {
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(super::map(&items, |item| item * 2), (0..2000).step_by(2).collect::<Vec<_>>());
        assert!(super::map(&[] as &[usize], |item| *item).is_empty());
    }
}
