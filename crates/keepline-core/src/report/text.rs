//! Text from outside, made harmless, and text broken into lines.

use std::fmt::Write as _;

/// Names longer than this are cut (columns).
pub const NAME: usize = 40;

/// Sentences with names in them are cut here (columns).
pub const SENTENCE: usize = 600;

/// Commands are cut here (columns): no longer one comes from names that a system really has.
pub const COMMAND: usize = 2000;

/// `text` without anything that a terminal acts upon: control characters, escape sequences,
/// line breaks, invisible and direction-changing characters become visible escapes such as
/// `\u{1b}` or `\n`. At most `limit` columns; what is longer ends in `…`.
#[must_use]
pub fn escape(text: &str, limit: usize) -> String {
    let mut safe = String::new();
    let mut used = 0;
    for character in text.chars() {
        let before = safe.len();
        push_safe(&mut safe, character);
        used += width(&safe[before..]);
        if used > limit {
            safe.truncate(before);
            while width(&safe) >= limit && safe.pop().is_some() {}
            safe.push('…');
            break;
        }
    }
    safe
}

fn push_safe(safe: &mut String, character: char) {
    match character {
        '\'' | '"' | '\\' => safe.push(character),
        // Everything the standard library does not take for printable (core::unicode::printable):
        // categories Cc, Cf, Cn, Co, Zl, Zp and Zs but the space, and marks that would combine
        // with what stands before them.
        _ => {
            // Writing to a string does not fail.
            let _ = write!(safe, "{}", character.escape_debug());
        }
    }
}

/// Columns that `text` takes on a terminal. East Asian wide characters take two; the ranges are
/// coarse, which costs alignment and nothing else.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|character| match u32::from(character) {
            0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
            0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff => 2,
            0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

/// `text` filled up with spaces to `columns`.
#[must_use]
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// The words of `text` in lines of at most `columns`. A word that is longer is broken.
#[must_use]
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if used > 0 && used + 1 + width(word) > columns {
            lines.push(String::new());
            used = 0;
        }
        let line = last(&mut lines);
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        for character in word.chars() {
            let wide = width(character.encode_utf8(&mut [0; 4]));
            if used > 0 && used + wide > columns {
                lines.push(String::new());
                used = 0;
            }
            last(&mut lines).push(character);
            used += wide;
        }
    }
    lines
}

fn last(lines: &mut Vec<String>) -> &mut String {
    if lines.is_empty() {
        lines.push(String::new());
    }
    let end = lines.len() - 1;
    &mut lines[end]
}

/// A shell command in lines of at most `columns`, each but the last ending in ` \`, so that it can
/// be copied as it stands. It is broken only at spaces outside quotes: a longer word stays whole.
/// `nsenter` and its namespace make a line of their own, what is run there the next.
#[must_use]
pub fn wrap_command(command: &str, columns: usize) -> Vec<String> {
    if width(command) <= columns {
        return vec![command.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for (at, word) in words(command).into_iter().enumerate() {
        let full = match at {
            1 | 2 if command.starts_with("nsenter ") => at == 2,
            // Two columns stay free for the ` \`.
            _ => !line.is_empty() && width(&line) + 1 + width(word) + 2 > columns,
        };
        if full {
            lines.push(format!("{line} \\"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// The words of a shell command with their quotes on; spaces in quotes do not part words.
fn words(command: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut quote, mut escaped) = (0, None, false);
    for (at, character) in command.char_indices() {
        match (quote, character) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, ' ') => {
                words.push(&command[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&command[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_acts_upon_becomes_visible() {
        assert_eq!(escape("\x1b[2J\n\t\r\0", 80), r"\u{1b}[2J\n\t\r\0");
        assert_eq!(escape("a\u{202e}b\u{2066}c\u{200b}d", 80), r"a\u{202e}b\u{2066}c\u{200b}d");
        assert_eq!(escape("\u{9b}31m\u{7f}\u{2028}", 80), r"\u{9b}31m\u{7f}\u{2028}");
        assert_eq!(escape("it's \"ok\" \\ café 端末", 80), "it's \"ok\" \\ café 端末");
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(escape("abcdef", 6), "abcdef");
        assert_eq!(escape("abcdefg", 6), "abcde…");
        assert_eq!(escape("端末端末", 6), "端末…");
        assert_eq!(width(&escape(&"x".repeat(100_000), NAME)), NAME);
    }

    #[test]
    fn words_are_wrapped_and_long_ones_broken() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn commands_are_broken_only_where_a_shell_allows() {
        let command = "nsenter --net=/run/x ss -tK 'dst 10.0.1.2 and ( sport = :1 )'";
        assert_eq!(wrap_command(command, 80), [command]);
        assert_eq!(
            wrap_command(command, 30),
            ["nsenter --net=/run/x \\", "ss -tK \\", "'dst 10.0.1.2 and ( sport = :1 )'"]
        );
        assert_eq!(wrap_command(r"a\ b 'it'\''s so'", 5), [r"a\ b \", r"'it'\''s so'"]);
    }

    proptest! {
        #[test]
        fn nothing_dangerous_gets_through(text in any::<String>(), limit in 1usize..60) {
            let safe = escape(&text, limit);
            prop_assert!(width(&safe) <= limit, "{safe:?}");
            let harmless = |c: char| {
                !c.is_control()
                    && !matches!(u32::from(c), 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f)
            };
            prop_assert!(safe.chars().all(harmless), "{safe:?}");
        }

        #[test]
        fn wrapped_lines_fit_and_lose_nothing(text in "[ a-z端]{0,80}", columns in 2usize..20) {
            let lines = wrap(&text, columns);
            prop_assert!(lines.iter().all(|line| width(line) <= columns), "{lines:?}");
            let squeezed = |text: &str| text.replace(' ', "");
            prop_assert_eq!(squeezed(&lines.concat()), squeezed(&text));
        }

        #[test]
        fn a_wrapped_command_is_the_same_command(text in "[a-z' \"]{0,60}", columns in 4usize..20) {
            let lines = wrap_command(&text, columns);
            let joined = lines.iter().map(|line| line.strip_suffix(" \\").unwrap_or(line));
            let joined = joined.collect::<Vec<_>>().join(" ");
            prop_assert_eq!(words(&joined), words(&text));
        }
    }
}
