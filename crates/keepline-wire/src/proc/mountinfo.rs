//! `/proc/<pid>/mountinfo`: what is mounted where; named network namespaces are among it.
//!
//! Source: `show_mountinfo()` in `fs/proc_namespace.c`, `proc_pid_mountinfo(5)`.

use super::{Parsed, parse_lines};

/// One mount. Paths that are not UTF-8 have replacement characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Number of the mount, unique while it exists.
    pub mount_id: u32,
    /// Number of the mount it is on.
    pub parent: u32,
    /// What of the file system is mounted; for a network namespace `net:[4026531840]`,
    /// the number being its inode.
    pub root: String,
    /// Where, seen from the process's root; ends in `//deleted` if that is gone.
    pub mount_point: String,
    /// Type: `nsfs`, `cgroup2`, `overlay`, ….
    pub fs_type: String,
    /// Device or whatever the type names its source; may be empty.
    pub source: String,
}

/// Reads the file.
#[must_use]
pub fn parse(text: &str) -> Parsed<Mount> {
    parse_lines(text, |_| false, parse_line)
}

/// Reads one line.
///
/// # Errors
/// What is wrong with the line, for people to read.
pub fn parse_line(line: &str) -> Result<Mount, String> {
    // Single spaces separate: fields may be empty, and blanks inside are escaped.
    let mut fields = line.split(' ');
    let mut field = |name: &str| fields.next().ok_or_else(|| format!("{name} is missing"));
    let mount_id = number(field("mount id")?)?;
    let parent = number(field("parent id")?)?;
    field("device")?;
    let root = unescape(field("root")?);
    let mount_point = unescape(field("mount point")?);
    field("options")?;
    // Optional fields, any number, end with a lone dash.
    while field("dash")? != "-" {}
    let fs_type = unescape(field("type")?);
    let source = unescape(field("source")?);
    Ok(Mount { mount_id, parent, root, mount_point, fs_type, source })
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("bad mount number {text:?}"))
}

/// Undoes `mangle_path()`: blank, tab, newline, backslash and `#` are written `\ooo`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if byte == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
