//! The table of connections that IPVS remembers, of all namespaces.

use super::{ConnSeen, Loaded, Question, Walked, record};
use crate::{Error, object::Elf};

static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/ipvs.bpf.o")));

const CONNS: &str = "keepline_ipvs";

/// The loaded program, and where the table is: good for as long as IPVS is not loaded anew.
///
/// For kernels before 6.14, where the listing takes time with the square of its length; later ones
/// have another table. Needs kernel 5.17, the types of the module (`/sys/kernel/btf/ip_vs`) and the
/// names of the kernel's data (`CONFIG_KALLSYMS_ALL`), as distributions have them.
#[derive(Debug)]
pub struct IpvsTable {
    loaded: Loaded,
}

impl IpvsTable {
    /// Loads the program.
    ///
    /// # Errors
    /// Missing rights, or a kernel that cannot.
    pub fn load() -> Result<Self, Error> {
        Loaded::load("IPVS", &ELF.0).map(|loaded| Self { loaded })
    }

    /// Tells every TCP connection that IPVS remembers; templates of persistent services are none.
    /// Not to be called by two threads at the same time.
    ///
    /// # Errors
    /// When there is no table, or the walk could not go on; what was told before is void.
    pub fn entries(&mut self, mut tell: impl FnMut(ConnSeen)) -> Result<Walked, Error> {
        let mut reader = self.loaded.reader(0);
        let ticks = reader.ticks_per_second();
        let question = Question { last: u64::MAX, ..Question::default() };
        reader.walk::<{ record::CONN }>(CONNS, question, |bytes| {
            if let Some(seen) = ConnSeen::parse(bytes, ticks) {
                tell(seen);
            }
        })
    }
}
