//! The programs and their maps: services on their way into the kernel and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, OpenObject};
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
        // Of another version's layout: it is left behind.
        if let Some(running) = maps.iter().find(|map| map.name() == name)
            && running.map_type() == map.map_type()
            && running.key_size() == map.key_size()
            && running.value_size() == map.value_size()
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

/// Makes these the services of a map.
pub(super) fn write_services(map: &MapHandle, services: &[Service]) -> Result<Changes, Error> {
    let object = |vip: &Vip| format!("service {} in namespace {}", vip.address, vip.netns.0);
    let mut there = read(map)?;
    let mut changes = Changes::default();
    let canonical = |vip: &Vip| Vip { address: vip.address.to_canonical(), ..*vip };
    let mut seen = BTreeSet::new();
    if let Some(twice) = services.iter().find(|service| !seen.insert(canonical(&service.vip))) {
        return Err(Error::Invalid(format!("{} is there twice", object(&twice.vip))));
    }
    for service in services {
        let vip = canonical(&service.vip);
        let before = there.remove(&vip);
        let generation = match &before {
            Some((_, backends)) if *backends == table::in_order(service) => continue,
            Some((last, _)) => generation(*last),
            None => generation(0),
        };
        let value = table::encode(service, generation);
        // The map puts a new value in the place of the old: readers have the one or the other.
        map.update(&table::encode_key(&vip), &value, MapFlags::ANY)
            .map_err(|source| Error::bpf("write", object(&vip), source))?;
        if before.is_some() {
            changes.changed += 1;
        } else {
            changes.added += 1;
        }
    }
    for vip in there.keys() {
        map.delete(&table::encode_key(vip))
            .map_err(|source| Error::bpf("remove", object(vip), source))?;
        changes.removed += 1;
    }
    Ok(changes)
}

/// Another number than the last, and than those of a service that was removed and comes back:
/// milliseconds since boot.
fn generation(last: u32) -> u32 {
    let now = clock_gettime(ClockId::Boottime);
    let millis = now.tv_sec.wrapping_mul(1000).wrapping_add(now.tv_nsec / 1_000_000);
    let low = u32::try_from(millis & i64::from(u32::MAX)).unwrap_or(0);
    if low == last { low.wrapping_add(1) } else { low }
}
