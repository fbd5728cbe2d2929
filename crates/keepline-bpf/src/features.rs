//! Whether this kernel can do something, and if not, why.

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
