//! The codes: each stands for one kind of finding, has one page in `docs/codes`, and is
//! never given to another.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Something is broken now.
    Error,
    /// Something will break.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// As it is written everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Code of a finding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u16);

struct Page {
    code: Code,
    severity: Severity,
    text: &'static str,
}

macro_rules! pages {
    ($($name:ident = $number:literal $severity:ident $file:literal;)*) => {
        impl Code {
            $(
                #[doc = concat!("See `docs/codes/", $file, ".md`.")]
                pub const $name: Self = Self($number);
            )*
        }
        static PAGES: &[Page] = &[$(Page {
            code: Code::$name,
            severity: Severity::$severity,
            text: include_str!(concat!("../../../../docs/codes/", $file, ".md")),
        }),*];
    };
}

pages! {
    ORPHANED = 1 Error "KL001";
    NO_KEEPALIVE = 2 Warning "KL002";
    KEEPALIVE_LATE = 3 Warning "KL003";
    KEEPALIVE_TIGHT = 4 Warning "KL004";
    HALF_CLOSED = 5 Warning "KL005";
    BACKEND_GONE = 6 Warning "KL006";
    CONNTRACK_SHORTER = 7 Warning "KL007";
    TABLE_FULL = 8 Warning "KL008";
    KEEPALIVE_UNPROVEN = 9 Note "KL009";
    SCAN_INCOMPLETE = 10 Note "KL010";
    SLOW_TABLE = 11 Note "KL011";
    FORGOTTEN_AT_BACKEND = 12 Error "KL012";
    AMBIGUOUS = 13 Note "KL013";
    NAMES_MISSING = 14 Note "KL014";
    DIRECTOR_SETTINGS = 15 Warning "KL015";
    CONNTRACK_OFF = 16 Note "KL016";
    DIRECT_REPLIES = 17 Note "KL017";
    NFTABLES_BALANCES = 18 Note "KL018";
    POLICY_INVALID = 19 Warning "KL019";
}

impl Code {
    /// Every code there is, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        PAGES.iter().map(|page| page.code)
    }

    /// How grave.
    #[must_use]
    pub fn severity(self) -> Severity {
        self.page().severity
    }

    /// The page of the documentation: Markdown, 78 columns.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.page().text
    }

    /// What it says in one line: the page's heading without the code.
    #[must_use]
    pub fn title(self) -> &'static str {
        let heading = self.text().lines().next().unwrap_or_default();
        heading.split_once(": ").map_or(heading, |(_, title)| title)
    }

    fn page(self) -> &'static Page {
        PAGES.iter().find(|page| page.code == self).expect("a code cannot be made without its page")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KL{:03}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no finding `{0}`: the codes go from KL001 to {last}", last = last())]
pub struct UnknownCode(String);

fn last() -> Code {
    PAGES[PAGES.len() - 1].code
}

impl FromStr for Code {
    type Err = UnknownCode;

    /// Takes `KL001`, `kl001` and `1`.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let digits = text.strip_prefix("KL").or_else(|| text.strip_prefix("kl")).unwrap_or(text);
        let number = digits.parse::<u16>().ok();
        Self::all()
            .find(|code| Some(code.0) == number)
            .ok_or_else(|| UnknownCode(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes, pages and titles hold together: every page in the folder is compiled in, its
    /// heading names its code, and nothing compiled in is missing from the folder.
    #[test]
    fn codes_and_pages_are_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/codes");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let compiled: Vec<String> = Code::all().map(|code| format!("{code}.md")).collect();
        assert_eq!(files, compiled);
        for code in Code::all() {
            let heading = code.text().lines().next().unwrap();
            assert_eq!(heading, format!("# {code}: {}", code.title()));
            assert!(!code.title().is_empty());
            for section in
                ["## What was seen", "## Why it matters", "## What to do", "## How Keepline knows"]
            {
                assert!(code.text().contains(section), "{code} has no section {section}");
            }
            assert!(
                code.text().lines().all(|line| line.chars().count() <= 80),
                "{code} is too wide"
            );
        }
    }

    #[test]
    fn codes_are_read_and_written_alike() {
        for code in Code::all() {
            assert_eq!(code.to_string().parse(), Ok(code));
            assert_eq!(code.to_string().to_lowercase().parse(), Ok(code));
        }
        for bad in ["", "KL000", "KL999", "x", "KL", "KL00001x"] {
            assert!(bad.parse::<Code>().is_err(), "{bad} was taken");
        }
    }
}
