//! The capture file: a snapshot as JSON.

use std::io::{Read, Write};

use thiserror::Error;

use super::Snapshot;

/// Name and version of the capture format.
pub const SCHEMA: &str = "keepline.snapshot/v1";

/// More than this is no capture of a real machine: reading stops there (bytes).
const LIMIT: u64 = 2 << 30;

/// Why a capture could not be read or written.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// It is not JSON, or not of this shape; the text names line and column.
    #[error("not a Keepline capture: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is a capture of another version.
    #[error("the capture has schema `{found}`, this Keepline reads `{SCHEMA}`")]
    Schema {
        /// What it says it is.
        found: String,
    },
}

impl Snapshot {
    /// Reads a capture.
    ///
    /// # Errors
    /// When it is truncated, malformed, or of another schema.
    pub fn read(input: impl Read) -> Result<Self, CaptureError> {
        let snapshot: Self = serde_json::from_reader(std::io::BufReader::new(input.take(LIMIT)))?;
        if snapshot.schema != SCHEMA {
            return Err(CaptureError::Schema { found: snapshot.schema.chars().take(60).collect() });
        }
        Ok(snapshot)
    }

    /// Writes a capture.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn write(&self, output: impl Write) -> Result<(), CaptureError> {
        let mut output = std::io::BufWriter::new(output);
        serde_json::to_writer(&mut output, self)?;
        output.flush().map_err(serde_json::Error::io)?;
        Ok(())
    }
}
