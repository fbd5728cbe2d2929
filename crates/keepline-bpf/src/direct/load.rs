//! The programs and their maps: services on their way into the kernel and back.

use std::{collections::BTreeMap, os::fd::AsFd};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Object, OpenObject};
use rustix::time::{ClockId, clock_gettime};

use super::{Backend, Features, PROGRAMS, Service, Vip, table};
use crate::{
    Changes, Error, Support,
    facts::ProgramFacts,
    layout,
    object::{self, CONSTANTS, Elf, Programs},
};

static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/direct.bpf.o")));

const SERVICES: &str = "keepline_vips";
/// Maps that go on when the programs are replaced: with them, sockets that are connected or have
/// sent something keep what is known of them.
const LASTING: [&str; 3] = [SERVICES, "keepline_origin", "keepline_flows"];

/// Programs and maps in the kernel, nothing attached.
#[derive(Debug)]
pub(super) struct Loaded {
    pub object: Object,
    pub features: Features,
}

impl Loaded {
    /// The map of services.
    pub(super) fn services(&self) -> Result<MapHandle, Error> {
        object::map_of(&self.object, SERVICES)
    }
}

fn missing() -> Error {
    Error::Invalid(format!("the programs have no map {SERVICES}"))
}

/// Loads what works here; the maps of running programs go on where they fit.
pub(super) fn load(maps: &[MapHandle]) -> Result<Loaded, Error> {
    let programs = |can_refuse: bool| {
        let prepare = move |open: &mut OpenObject| prepare(open, maps, can_refuse);
        Programs { name: "direct", elf: &ELF.0, prepare: &prepare }.load_what_works(PROGRAMS)
    };
    let (mut loaded, mut refusal) = (programs(true)?, Support::Yes);
    let connect = PROGRAMS.len() - 2;
    if let Support::No(why) = loaded.1[connect].clone() {
        (loaded, refusal) = (programs(false)?, Support::No(why));
    }
    let (object, [name4, name6, recv4, recv6, send4, send6, conn4, conn6]) = loaded;
    let both = |first, second| if first == Support::Yes { second } else { first };
    let features = Features {
        connections: conn4,
        ipv6: both(both(conn6, name6), both(recv6, send6)),
        datagrams: both(recv4, send4),
        peer_name: name4,
        refusal,
    };
    Ok(Loaded { object, features })
}

fn prepare(
    open: &mut OpenObject,
    maps: &[MapHandle],
    can_refuse: bool,
) -> Result<(), libbpf_rs::Error> {
    for mut map in open.maps_mut() {
        let name = map.name().to_owned();
        if name == CONSTANTS {
            let version = layout::text::<16>(env!("CARGO_PKG_VERSION"));
            let can_refuse = u32::from(can_refuse).to_ne_bytes();
            map.set_initial_value(&[&can_refuse[..], &version].concat())?;
        }
        // Of another version's layout or size: it is left behind.
        if let Some(running) = maps.iter().find(|map| map.name() == name)
            && running.map_type() == map.map_type()
            && running.key_size() == map.key_size()
            && running.value_size() == map.value_size()
            && running.max_entries() == map.max_entries()
        {
            map.reuse_fd(running.as_fd())?;
        }
    }
    Ok(())
}

/// The maps of running programs that may go on.
pub(super) fn maps_of<'a>(
    programs: impl Iterator<Item = &'a ProgramFacts> + Clone,
) -> Result<Vec<MapHandle>, Error> {
    let mut maps = Vec::new();
    for name in LASTING {
        // Each program knows only those that it uses.
        for facts in programs.clone() {
            if let Some(map) = facts.map(name)? {
                maps.push(map);
                break;
            }
        }
    }
    Ok(maps)
}

/// The map of services of a running program.
pub(super) fn services_of(facts: &ProgramFacts) -> Result<MapHandle, Error> {
    let map = facts.map(SERVICES)?.ok_or_else(missing)?;
    if map.value_size() as usize == table::SERVICE_SIZE {
        Ok(map)
    } else {
        Err(Error::Invalid("what is applied is of another version: apply it again".to_owned()))
    }
}

/// Version that a running program was loaded by.
pub(super) fn read_version(facts: &ProgramFacts) -> Result<String, Error> {
    let read = |source| Error::bpf("read", format!("map {CONSTANTS}"), source);
    let Some(map) = facts.map(CONSTANTS)? else { return Ok(String::new()) };
    let value = map.lookup(&[0; 4], MapFlags::ANY).map_err(read)?.unwrap_or_default();
    // After `can_refuse`.
    Ok(layout::text_of(value.get(4..).unwrap_or_default()))
}

/// Every service with its generation.
fn read(map: &MapHandle) -> Result<BTreeMap<Vip, (u32, Vec<Backend>)>, Error> {
    let mut services = BTreeMap::new();
    for key in map.keys() {
        let value = map
            .lookup(&key, MapFlags::ANY)
            .map_err(|source| Error::bpf("read", format!("map {SERVICES}"), source))?;
        if let (Some(vip), Some(value)) = (table::decode_key(&key), value) {
            services.insert(vip, table::decode(&value));
        }
    }
    Ok(services)
}

/// The services that a running program has, in order.
pub(super) fn read_services(map: &MapHandle) -> Result<Vec<Service>, Error> {
    let services = read(map)?.into_iter();
    Ok(services.map(|(vip, (_, backends))| Service { vip, backends }).collect())
}

/// Makes these the services of a map. First what is not to be there any more goes, then what is there
/// otherwise is replaced, then the rest comes: where the map is full or memory short, no backend that
/// is gone stays for want of room. What fails stops nothing else; the first failure is told.
pub(super) fn write_services(map: &MapHandle, services: &[Service]) -> Result<Changes, Error> {
    let there = read(map)?;
    let mut wanted = BTreeMap::new();
    for service in services {
        let vip = Vip { address: service.vip.address.to_canonical(), ..service.vip };
        if wanted.insert(vip, service).is_some() {
            return Err(Error::Invalid(format!("{} is there twice", name(&vip))));
        }
    }
    let (known, new): (Vec<_>, Vec<_>) =
        wanted.iter().partition(|(vip, _)| there.contains_key(vip));
    let mut changes = Changes::default();
    let mut failures = Vec::new();
    let mut count = |result: Result<(), Error>, changed: &mut usize| match result {
        Ok(()) => *changed += 1,
        Err(error) => failures.push(error),
    };
    for vip in there.keys().filter(|vip| !wanted.contains_key(vip)) {
        let removed = map.delete(&table::encode_key(vip));
        let removed = removed.map_err(|source| Error::bpf("remove", name(vip), source));
        count(removed, &mut changes.removed);
    }
    for (vip, service) in known {
        let (last, backends) = &there[vip];
        if *backends != table::in_order(service) {
            count(write(map, vip, service, generation(*last)), &mut changes.changed);
        }
    }
    for (vip, service) in new {
        count(write(map, vip, service, generation(0)), &mut changes.added);
    }
    failures.into_iter().next().map_or(Ok(changes), Err)
}

/// A service, for messages.
fn name(vip: &Vip) -> String {
    format!("service {} in namespace {}", vip.address, vip.netns.0)
}

/// The map puts a new value in the place of the old: readers find the one or the other.
fn write(map: &MapHandle, vip: &Vip, service: &Service, generation: u32) -> Result<(), Error> {
    let value = table::encode(service, generation);
    map.update(&table::encode_key(vip), &value, MapFlags::ANY).map_err(|source| {
        let mut object = name(vip);
        if source.kind() == ErrorKind::TooBig {
            object += &format!(" beside as many others as there may be ({})", map.max_entries());
        }
        Error::bpf("write", object, source)
    })
}

/// Another number than the last, and than those of a service that was removed and comes back:
/// milliseconds since boot.
fn generation(last: u32) -> u32 {
    let now = clock_gettime(ClockId::Boottime);
    let millis = now.tv_sec.wrapping_mul(1000).wrapping_add(now.tv_nsec / 1_000_000);
    let low = u32::try_from(millis & i64::from(u32::MAX)).unwrap_or(0);
    if low == last { low.wrapping_add(1) } else { low }
}

#[cfg(test)]
mod tests {
    use libbpf_rs::{MapType, libbpf_sys};

    use super::*;
    use crate::{NetnsCookie, direct::Protocol};

    /// A map like that of the programs, for this many services.
    fn map(most: u32) -> Option<MapHandle> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
            ..Default::default()
        };
        let size = u32::try_from(table::SERVICE_SIZE).unwrap();
        match MapHandle::create(MapType::Hash, Some("services"), 32, size, most, &options) {
            Ok(map) => Some(map),
            Err(why) => {
                println!("SKIP: {why}");
                assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
                None
            }
        }
    }

    #[test]
    fn a_full_map_keeps_nothing_that_is_gone() {
        let Some(map) = map(4) else { return };
        let service = |number: u8, backend: u8| Service {
            vip: Vip {
                netns: NetnsCookie(1),
                address: [10, 0, 0, number].into(),
                port: None,
                protocol: Protocol::Tcp,
            },
            backends: vec![Backend { address: [10, 0, 1, backend].into(), port: None, weight: 1 }],
        };
        let before = [3, 4, 5, 6].map(|number| service(number, 1));
        let changes = write_services(&map, &before).unwrap();
        assert_eq!(changes, Changes { added: 4, ..Changes::default() });
        // Two are gone, one has another backend, and three more are one too many.
        let now = [(1, 1), (2, 1), (4, 1), (5, 2), (7, 1)].map(|(vip, to)| service(vip, to));
        let error = write_services(&map, &now).unwrap_err().to_string();
        assert!(error.contains("10.0.0.7") && error.contains("may be (4)"), "{error}");
        assert_eq!(read_services(&map).unwrap(), now[..4]);
        let twice = write_services(&map, &[service(1, 1), service(1, 2)]).unwrap_err().to_string();
        assert!(twice.contains("10.0.0.1 in namespace 1 is there twice"), "{twice}");
    }
}
