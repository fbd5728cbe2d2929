//! One kind of work on many items, by several threads.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// So many sockets or entries make a piece of the judge's work, since sessions are independent of
/// each other but for their backends. Fewer are done before a thread has started.
pub(crate) const PIECE: usize = 8192;

/// Both, at the same time if they are about very many.
pub(crate) fn both<A: Send, B: Send>(
    count: usize,
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    if count <= PIECE {
        return (one(), other());
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        (one(), other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// `work` on every piece, on as many threads as there are processors; results in the order of the
/// pieces.
pub(crate) fn map<'i, T: Sync, R: Send>(
    pieces: &'i [T],
    work: impl Fn(&'i T) -> R + Sync,
) -> Vec<R> {
    map_on(std::thread::available_parallelism().map_or(1, usize::from), pieces, work)
}

/// The same on so many threads, the caller's among them.
pub fn map_on<'i, T: Sync, R: Send>(
    workers: usize,
    pieces: &'i [T],
    work: impl Fn(&'i T) -> R + Sync,
) -> Vec<R> {
    if pieces.len() < 2 {
        return pieces.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = pieces.iter().map(|_| Mutex::new(None)).collect();
    let one = || {
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed))
            && let Some(piece) = pieces.get(at)
        {
            let result = work(piece);
            *results[at].lock().expect("no other worker has this piece") = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(pieces.len()) {
            scope.spawn(one);
        }
        one();
    });
    let result = |slot: Mutex<Option<R>>| slot.into_inner().ok().flatten();
    results.into_iter().map(|slot| result(slot).expect("every piece was worked on")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_keep_the_order() {
        let pieces: Vec<usize> = (0..1000).collect();
        assert_eq!(super::map(&pieces, |at| at * 2), (0..2000).step_by(2).collect::<Vec<_>>());
        assert_eq!(super::both(1, || 1, || "a"), (1, "a"));
        assert_eq!(super::both(usize::MAX, || 1, || "a"), (1, "a"));
    }
}
