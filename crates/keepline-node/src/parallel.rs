//! A few workers over many items.

/// How many: as there are processors, at least two.
pub(crate) fn workers() -> u32 {
    /// More would wait for the kernel's locks.
    const MOST: usize = keepline_bpf::tables::SLOTS as usize;
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    processors.clamp(2, MOST) as u32
}

/// `work` on every item, on so many threads; results in the order of the items.
pub(crate) fn map<'i, T: Sync, R: Send>(
    items: &'i [T],
    work: impl Fn(&'i T) -> R + Sync,
) -> Vec<R> {
    keepline_core::parallel::map_on(workers() as usize, items, work)
}
