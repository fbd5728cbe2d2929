//! Generic netlink: the message header, and the controller that knows the families' numbers.
//!
//! Source: `include/uapi/linux/genetlink.h`, `net/netlink/genetlink.c`. Host byte order.

use crate::nl::{Attr, Request, WireError, array, attrs};

/// Message type of the controller itself.
pub const GENL_ID_CTRL: u16 = 0x10;

/// Length of `struct genlmsghdr`: command, version, 16 bits reserved.
const HEADER_LEN: usize = 4;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_VERSION: u8 = 2;
// CTRL_ATTR_*
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_VERSION: u16 = 3;
const CTRL_ATTR_MAXATTR: u16 = 5;
const CTRL_ATTR_OPS: u16 = 6;
// CTRL_ATTR_OP_*
const CTRL_ATTR_OP_ID: u16 = 1;
const CTRL_ATTR_OP_FLAGS: u16 = 2;

/// Starts a request to a family: netlink header and `struct genlmsghdr`.
#[must_use]
pub fn request(family: u16, command: u8, version: u8, flags: u16, sequence: u32) -> Request {
    Request::new(family, flags, sequence).bytes(&[command, version, 0, 0])
}

/// Splits a payload into the command and the attributes behind the header.
///
/// # Errors
/// The payload is shorter than the header.
pub fn split(payload: &[u8]) -> Result<(u8, &[u8]), WireError> {
    let [command, ..] = array::<HEADER_LEN>(payload, 0, "generic netlink header")?;
    Ok((command, payload.get(HEADER_LEN..).unwrap_or(&[])))
}

/// A family as the controller describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Message type of its requests and answers.
    pub id: u16,
    /// Name.
    pub name: String,
    /// Version.
    pub version: u32,
    /// Highest attribute type at the top level.
    pub max_attr: u32,
    /// The commands that it takes.
    pub operations: Vec<Operation>,
}

/// A command of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Command number.
    pub command: u32,
    /// `GENL_ADMIN_PERM` (1), `GENL_CMD_CAP_DO` (2), `GENL_CMD_CAP_DUMP` (4) …
    pub flags: u32,
}

/// A request for the description of the family `name`; one answer, no acknowledgement.
///
/// `ENOENT` where the kernel has no such family. The kernel may load a module to find it
/// (`net-pf-16-proto-16-family-…` in `ctrl_getfamily()`), so whoever must not change anything
/// first looks whether the module is there.
#[must_use]
pub fn get_family(name: &str, sequence: u32) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_VERSION, 0, sequence)
        .attr(CTRL_ATTR_FAMILY_NAME, &text)
        .finish()
}

/// Decodes the answer to [`get_family`] (`ctrl_fill_info()`).
///
/// # Errors
/// No id or name in it, or an attribute is too short for its type.
pub fn parse_family(payload: &[u8]) -> Result<Family, WireError> {
    const WHAT: &str = "generic netlink family";
    let (_, body) = split(payload)?;
    let (mut id, mut name) = (None, None);
    let (mut version, mut max_attr) = (0, 0);
    let mut operations = Vec::new();
    for attr in attrs(body) {
        let attr = attr?;
        match attr.kind {
            CTRL_ATTR_FAMILY_ID => id = Some(attr.u16(WHAT)?),
            CTRL_ATTR_FAMILY_NAME => name = Some(attr.text()),
            CTRL_ATTR_VERSION => version = attr.u32(WHAT)?,
            CTRL_ATTR_MAXATTR => max_attr = attr.u32(WHAT)?,
            CTRL_ATTR_OPS => operations = parse_operations(&attr)?,
            _ => {}
        }
    }
    Ok(Family {
        id: id.ok_or_else(|| WireError::invalid(WHAT, "no id"))?,
        name: name.ok_or_else(|| WireError::invalid(WHAT, "no name"))?,
        version,
        max_attr,
        operations,
    })
}

/// The list is one of attributes numbered from 1, each with the attributes of one operation.
fn parse_operations(list: &Attr<'_>) -> Result<Vec<Operation>, WireError> {
    const WHAT: &str = "generic netlink operation";
    let mut operations = Vec::new();
    for item in list.nested() {
        let mut operation = Operation { command: 0, flags: 0 };
        for attr in item?.nested() {
            let attr = attr?;
            match attr.kind {
                CTRL_ATTR_OP_ID => operation.command = attr.u32(WHAT)?,
                CTRL_ATTR_OP_FLAGS => operation.flags = attr.u32(WHAT)?,
                _ => {}
            }
        }
        operations.push(operation);
    }
    Ok(operations)
}
