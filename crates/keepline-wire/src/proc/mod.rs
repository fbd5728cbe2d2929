//! Tables of `/proc`, as text. Opening and reading the files is up to the caller.

pub mod ip_vs_conn;
pub mod mountinfo;
pub mod nf_conntrack_stat;
pub mod snmp;
pub mod sockstat;
pub mod udp;

/// What came of a table whose rows stand for themselves: one bad row does not spoil the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The rows that could be read, in order.
    pub rows: Vec<T>,
    /// The lines that could not.
    pub bad: Vec<BadLine>,
}

/// A line that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
    /// Its beginning, at most 80 characters. Untrusted: escape it before showing it.
    pub text: String,
}

/// Longest excerpt in a [`BadLine`], in characters.
const EXCERPT: usize = 80;

/// Reads each line that is not blank and not skipped.
fn parse_lines<T>(
    text: &str,
    skip: impl Fn(&str) -> bool,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Parsed<T> {
    let mut parsed = Parsed { rows: Vec::new(), bad: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || skip(line) {
            continue;
        }
        match parse(line) {
            Ok(row) => parsed.rows.push(row),
            Err(why) => parsed.bad.push(BadLine {
                line: index + 1,
                why,
                text: line.chars().take(EXCERPT).collect(),
            }),
        }
    }
    parsed
}
