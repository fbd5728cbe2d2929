//! The program as a user meets it: recorded snapshots in, words and exit statuses out.
//!
//! Expected texts are in `expected/`. After a wanted change of words: `SNAPSHOTS=overwrite cargo
//! test -p keepline --test cli`, and read the difference.

mod bad_input;
mod contract;
mod engine;
mod files;
mod help;
mod human;
mod migrate;
mod policy;
mod run;
