//! The real client against a false Engine on a socket.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod events;
mod fake;
mod manager;
mod newer;
mod recorded;
mod trouble;
