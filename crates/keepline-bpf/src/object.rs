//! Compiled programs, and what libbpf says while it loads them.

use std::{cell::RefCell, sync::Once};

use libbpf_rs::{MapCore, MapHandle, Object, ObjectBuilder, OpenObject, PrintLevel, set_print};

use crate::{Error, Support, facts};

/// An object file, aligned as ELF wants it.
#[repr(C, align(8))]
pub(crate) struct Elf<T: ?Sized>(pub T);

/// Name of every object, which that of the constants' map begins with.
const OBJECT: &str = "keepline";
/// The map of the constants: eight bytes of the object's name and that of the section.
pub(crate) const CONSTANTS: &str = "keepline.rodata";

thread_local! {
    /// What libbpf printed on this thread since the last look.
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Takes libbpf's words instead of letting them go to stderr.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_print(Some((PrintLevel::Warn, |_, text| {
            /// A verifier's log can be megabytes.
            const MOST: usize = 64 << 10;
            LOG.with_borrow_mut(|log| {
                log.push_str(&text);
                if log.len() > MOST {
                    let mut from = log.len() - MOST;
                    while !log.is_char_boundary(from) {
                        from += 1;
                    }
                    log.drain(..from);
                }
            });
        })));
    });
}

/// What libbpf printed on this thread since the last look.
pub(crate) fn take_log() -> String {
    LOG.take()
}

/// Programs of one object file, with what is to be set before they are loaded.
pub(crate) struct Programs<'a> {
    /// What it is, for messages.
    pub name: &'static str,
    /// The object file.
    pub elf: &'static [u8],
    /// Sets sizes and constants.
    pub prepare: &'a dyn Fn(&mut OpenObject) -> Result<(), libbpf_rs::Error>,
}

impl Programs<'_> {
    /// Loads the programs that `wanted` names, and no other.
    pub(crate) fn load(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Object, Error> {
        listen();
        take_log();
        let error = |operation| {
            move |source| Error::bpf(operation, format!("the {} programs", self.name), source)
        };
        let mut builder = ObjectBuilder::default();
        let mut open = builder
            .name(OBJECT)
            .and_then(|builder| builder.open_memory(self.elf))
            .map_err(error("open"))?;
        (self.prepare)(&mut open).map_err(error("prepare"))?;
        for mut program in open.progs_mut() {
            let load = program.name().to_str().is_some_and(wanted);
            program.set_autoload(load);
        }
        open.load().map_err(error("load"))
    }

    /// Loads those of `names` that this kernel takes, each with the verdict on it.
    ///
    /// # Errors
    /// Missing rights, or a failure that is not one program's alone.
    pub(crate) fn load_what_works<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<(Object, [Support; N]), Error> {
        let all = match self.load(&|name| names.contains(&name)) {
            Ok(object) => return Ok((object, names.map(|_| Support::Yes))),
            Err(error) => error,
        };
        let support = names.map(|one| match self.load(&|name| name == one) {
            Ok(_) => Support::Yes,
            Err(error) => Support::No(format!("{}: {error}", facts::kernel())),
        });
        if all.is_permission() && !support.iter().any(Support::is_yes) {
            return Err(all);
        }
        let object = self.load(&|name| {
            names.iter().zip(&support).any(|(one, support)| *one == name && support.is_yes())
        })?;
        Ok((object, support))
    }
}

/// A map of a loaded object.
pub(crate) fn map_of(object: &Object, name: &str) -> Result<MapHandle, Error> {
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| Error::Invalid(format!("the programs have no map {name}")))?;
    MapHandle::try_from(&map).map_err(|source| Error::bpf("open", format!("map {name}"), source))
}
