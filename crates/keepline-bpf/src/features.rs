//! Words that both cures use: what this kernel can do, what an update did.

/// Whether a part works on this kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// It does not, with the reason.
    No(String),
}

impl Support {
    /// Whether it works.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }
}

/// What an update did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services or rules that were not there.
    pub added: usize,
    /// Those that were there otherwise.
    pub changed: usize,
    /// Those that are not there any more.
    pub removed: usize,
}
