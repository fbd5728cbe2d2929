//! Reads `tests/fixtures/*.hex`: messages of a real kernel, hexadecimal, `#` begins a comment.
//! They were recorded on a little-endian machine, and netlink is in host byte order.

/// The bytes of `tests/fixtures/NAME.hex`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").split_ascii_whitespace())
        .map(|byte| {
            u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{path}: {byte:?} is no byte"))
        })
        .collect()
}
