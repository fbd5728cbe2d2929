//! Netlink framing: message headers, attributes, errors, and the builder for requests.
//!
//! Source: `include/uapi/linux/netlink.h`, RFC 3549, `lib/nlattr.c`.
//! All integers are in host byte order unless a protocol says otherwise.

use thiserror::Error;

/// Length of `struct nlmsghdr`.
pub const HEADER_LEN: usize = 16;

/// Control message types, `include/uapi/linux/netlink.h`.
pub const NLMSG_NOOP: u16 = 1;
/// An error or, with errno 0, an acknowledgement.
pub const NLMSG_ERROR: u16 = 2;
/// End of a dump; carries an errno where the dump failed half-way.
pub const NLMSG_DONE: u16 = 3;
/// Data was lost.
pub const NLMSG_OVERRUN: u16 = 4;

/// It is a request.
pub const NLM_F_REQUEST: u16 = 0x01;
/// An acknowledgement is wanted.
pub const NLM_F_ACK: u16 = 0x04;
/// The dump was inconsistent: what was walked changed meanwhile.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// Create what does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// Fail if it exists already.
pub const NLM_F_EXCL: u16 = 0x200;
/// Replace what exists.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Return all that matches (`NLM_F_ROOT | NLM_F_MATCH`).
pub const NLM_F_DUMP: u16 = 0x300;
/// On errors and DONE: the request is not echoed.
pub const NLM_F_CAPPED: u16 = 0x100;
/// On errors and DONE: extended acknowledgement attributes follow.
pub const NLM_F_ACK_TLVS: u16 = 0x200;

/// Attribute type bit: the value is itself a list of attributes.
pub const NLA_F_NESTED: u16 = 0x8000;
/// Attribute type bit: the value is in network byte order.
pub const NLA_F_NET_BYTEORDER: u16 = 0x4000;
const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);

/// Extended acknowledgement: human-readable text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What can be wrong with bytes that came in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// Fewer bytes than the structure needs.
    #[error("{what}: needs {need} bytes, has {have}")]
    Short {
        /// The structure.
        what: &'static str,
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// A value that cannot be.
    #[error("{what}: {why}")]
    Invalid {
        /// The structure or field.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl WireError {
    /// Shorthand for [`WireError::Invalid`].
    pub fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { what, why: why.into() }
    }
}

/// The first `N` bytes at `offset`, or what is missing.
pub fn array<const N: usize>(
    bytes: &[u8],
    offset: usize,
    what: &'static str,
) -> Result<[u8; N], WireError> {
    offset
        .checked_add(N)
        .and_then(|end| bytes.get(offset..end))
        .and_then(|slice| slice.try_into().ok())
        .ok_or(WireError::Short { what, need: offset.saturating_add(N), have: bytes.len() })
}

/// One netlink message, header decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`, the request's number.
    pub sequence: u32,
    /// `nlmsg_pid`, the receiver's port.
    pub port: u32,
    /// What follows the header, padding removed.
    pub payload: &'a [u8],
}

/// Splits one datagram into its messages. Ends after the first malformed one.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

/// The messages of one datagram.
#[must_use]
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let result = split_message(self.rest);
        match result {
            Ok((message, rest)) => {
                self.rest = rest;
                Some(Ok(message))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

fn split_message(bytes: &[u8]) -> Result<(Message<'_>, &[u8]), WireError> {
    const WHAT: &str = "netlink message";
    let len = u32::from_ne_bytes(array(bytes, 0, WHAT)?) as usize;
    let message = Message {
        kind: u16::from_ne_bytes(array(bytes, 4, WHAT)?),
        flags: u16::from_ne_bytes(array(bytes, 6, WHAT)?),
        sequence: u32::from_ne_bytes(array(bytes, 8, WHAT)?),
        port: u32::from_ne_bytes(array(bytes, 12, WHAT)?),
        payload: bytes.get(HEADER_LEN..len).ok_or(WireError::Short {
            what: WHAT,
            need: len.max(HEADER_LEN),
            have: bytes.len(),
        })?,
    };
    Ok((message, bytes.get(align(len)..).unwrap_or(&[])))
}

/// Rounds up to the next multiple of four (`NLMSG_ALIGN`, `NLA_ALIGN`).
#[must_use]
pub const fn align(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// One attribute: type without flag bits, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// `nla_type` without the flag bits.
    pub kind: u16,
    /// The value, padding removed.
    pub value: &'a [u8],
}

impl<'a> Attr<'a> {
    /// One byte.
    pub fn u8(&self, what: &'static str) -> Result<u8, WireError> {
        Ok(array::<1>(self.value, 0, what)?[0])
    }
    /// Host byte order.
    pub fn u16(&self, what: &'static str) -> Result<u16, WireError> {
        array(self.value, 0, what).map(u16::from_ne_bytes)
    }
    /// Host byte order.
    pub fn u32(&self, what: &'static str) -> Result<u32, WireError> {
        array(self.value, 0, what).map(u32::from_ne_bytes)
    }
    /// Host byte order.
    pub fn u64(&self, what: &'static str) -> Result<u64, WireError> {
        array(self.value, 0, what).map(u64::from_ne_bytes)
    }
    /// Network byte order.
    pub fn be16(&self, what: &'static str) -> Result<u16, WireError> {
        array(self.value, 0, what).map(u16::from_be_bytes)
    }
    /// Network byte order.
    pub fn be32(&self, what: &'static str) -> Result<u32, WireError> {
        array(self.value, 0, what).map(u32::from_be_bytes)
    }
    /// Network byte order.
    pub fn be64(&self, what: &'static str) -> Result<u64, WireError> {
        array(self.value, 0, what).map(u64::from_be_bytes)
    }
    /// Text up to the first NUL; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let end = self.value.iter().position(|b| *b == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(&self.value[..end]).into_owned()
    }
    /// The attributes nested in this one.
    #[must_use]
    pub fn nested(&self) -> Attrs<'a> {
        attrs(self.value)
    }
}

/// Walks a list of attributes. Ends after the first malformed one.
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

/// The attributes in `bytes`.
#[must_use]
pub fn attrs(bytes: &[u8]) -> Attrs<'_> {
    Attrs { rest: bytes }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Trailing padding shorter than a header is no attribute (nla_ok()).
        if self.rest.len() < 4 {
            return None;
        }
        match split_attr(self.rest) {
            Ok((attr, rest)) => {
                self.rest = rest;
                Some(Ok(attr))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

fn split_attr(bytes: &[u8]) -> Result<(Attr<'_>, &[u8]), WireError> {
    const WHAT: &str = "netlink attribute";
    let len = usize::from(u16::from_ne_bytes(array(bytes, 0, WHAT)?));
    let kind = u16::from_ne_bytes(array(bytes, 2, WHAT)?) & NLA_TYPE_MASK;
    let value = bytes.get(4..len).ok_or(WireError::Short {
        what: WHAT,
        need: len.max(4),
        have: bytes.len(),
    })?;
    Ok((Attr { kind, value }, bytes.get(align(len)..).unwrap_or(&[])))
}

/// What the kernel says of a request: `NLMSG_ERROR` or `NLMSG_DONE`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Positive errno; 0 is success.
    pub errno: i32,
    /// Text of the extended acknowledgement, where the kernel gives one.
    pub text: Option<String>,
}

impl Message<'_> {
    /// Whether the dump that this message is part of was interrupted.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// The status in an `NLMSG_ERROR` or `NLMSG_DONE`; `None` for any other message.
    pub fn status(&self) -> Result<Option<Status>, WireError> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return Ok(None);
        }
        if self.kind == NLMSG_DONE && self.payload.len() < 4 {
            return Ok(Some(Status::default()));
        }
        let errno = i32::from_ne_bytes(array(self.payload, 0, "netlink error")?).saturating_neg();
        // An error echoes the request: the header alone where CAPPED, else all of it.
        let mut skip = 4;
        if self.kind == NLMSG_ERROR {
            let echoed = array(self.payload, 4, "netlink error").map(u32::from_ne_bytes);
            skip = match echoed {
                Ok(len) if self.flags & NLM_F_CAPPED == 0 => {
                    align(len as usize).saturating_add(skip)
                }
                _ => HEADER_LEN + skip,
            };
        }
        let mut text = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            for attr in attrs(self.payload.get(skip..).unwrap_or(&[])) {
                let attr = attr?;
                if attr.kind == NLMSGERR_ATTR_MSG {
                    text = Some(attr.text());
                }
            }
        }
        Ok(Some(Status { errno, text }))
    }
}

/// Builds one request. The length field is filled in by [`Request::finish`].
///
/// ```
/// use keepline_wire::nl::{Request, NLM_F_DUMP, messages};
/// let bytes = Request::new(20, NLM_F_DUMP, 1).bytes(&[2, 6, 0, 0]).finish();
/// assert_eq!(messages(&bytes).next().unwrap().unwrap().payload, [2, 6, 0, 0]);
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    buffer: Vec<u8>,
}

impl Request {
    /// A request of type `kind`; `NLM_F_REQUEST` is added to `flags`.
    #[must_use]
    pub fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut buffer = Vec::with_capacity(128);
        buffer.extend_from_slice(&0u32.to_ne_bytes());
        buffer.extend_from_slice(&kind.to_ne_bytes());
        buffer.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0u32.to_ne_bytes());
        Self { buffer }
    }

    /// Appends a protocol header, padded to four bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.buffer.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.push_attr(kind, value);
        self
    }

    /// Appends an attribute whose value is what `fill` appends.
    #[must_use]
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.buffer.len();
        self.push_attr(kind | NLA_F_NESTED, &[]);
        let mut filled = fill(self);
        let len = u16::try_from(filled.buffer.len() - start).unwrap_or(u16::MAX);
        filled.buffer[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        filled
    }

    fn push_attr(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.buffer.extend_from_slice(&len.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&value[..usize::from(len) - 4]);
        self.pad();
    }

    fn pad(&mut self) {
        self.buffer.resize(align(self.buffer.len()), 0);
    }

    /// The finished message, with its length.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        self.buffer[..4].copy_from_slice(&len.to_ne_bytes());
        self.buffer
    }
}
