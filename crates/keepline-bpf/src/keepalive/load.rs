//! The programs and their maps: a config's way into the kernel and back.

use std::{collections::BTreeMap, time::Duration};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, OpenObject};

use super::{Config, Features, LATER, NEW, OPEN, Rule, Selector, Settings};
use crate::{
    Changes, Error, NetnsCookie, Support,
    facts::{self, ProgramFacts},
    layout::{self, Pieces},
    object::{self, CONSTANTS, Elf, Programs},
};

static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/keepalive.bpf.o")));

const CONFIG: &str = "keepline_conf";
const RULES: &str = "keepline_sel";
/// `version` of `struct config`, zero-terminated.
const VERSION_LENGTH: usize = 16;
/// Size of `struct settings`.
const SETTINGS_SIZE: usize = 12;
/// Size of `struct config`.
const CONFIG_SIZE: usize = VERSION_LENGTH + SETTINGS_SIZE + 8;

/// Loads the programs with this config in their maps; attaches none.
pub(super) fn load(config: &Config) -> Result<(Object, Features), Error> {
    let selection = match NetnsCookie::current() {
        Ok(_) => Support::Yes,
        Err(error) => Support::No(format!("{}: {error}", facts::kernel())),
    };
    let by_namespace = selection.is_yes();
    let prepare = move |open: &mut OpenObject| prepare(open, by_namespace);
    let programs = Programs { name: "keepalive", elf: &ELF.0, prepare: &prepare };
    let (object, [new_sockets, open_sockets, setsockopt]) =
        programs.load_what_works([NEW, OPEN, LATER])?;
    let map = |name| object::map_of(&object, name);
    write(&map(RULES)?, &map(CONFIG)?, &config.rules, config.others.as_ref(), config.enforce)?;
    Ok((object, Features { new_sockets, open_sockets, setsockopt, selection }))
}

fn prepare(open: &mut OpenObject, by_namespace: bool) -> Result<(), libbpf_rs::Error> {
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(u32::MAX);
    let constants = [facts::ticks_per_second(), page, u32::from(by_namespace)];
    for mut map in open.maps_mut().filter(|map| map.name() == CONSTANTS) {
        map.set_initial_value(constants.map(u32::to_ne_bytes).as_flattened())?;
    }
    Ok(())
}

/// Makes these the rules and the settings of all others. Sockets meanwhile get the old or the new.
fn write(
    map: &MapHandle,
    config: &MapHandle,
    rules: &[Rule],
    others: Option<&Settings>,
    enforce: bool,
) -> Result<Changes, Error> {
    let error = |operation| move |source| Error::bpf(operation, "the rules of keepalive", source);
    let configure = |rules: usize| {
        let value = encode_config(others, enforce, rules);
        config.update(&[0; 4], &value, MapFlags::ANY).map_err(error("write"))
    };
    let mut there: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for key in map.keys() {
        if let Some(value) = map.lookup(&key, MapFlags::ANY).map_err(error("read"))? {
            there.insert(key, value);
        }
    }
    // None is overlooked while there are old ones and new ones.
    configure(there.len() + rules.len())?;
    let mut changes = Changes::default();
    for rule in rules {
        let key = encode_selector(&rule.selector);
        let value = encode_settings(Some(&rule.settings));
        match there.remove(&key) {
            Some(before) if before == value => continue,
            Some(_) => changes.changed += 1,
            None => changes.added += 1,
        }
        map.update(&key, &value, MapFlags::ANY).map_err(error("write"))?;
    }
    for key in there.keys() {
        map.delete(key).map_err(error("remove"))?;
        changes.removed += 1;
    }
    configure(rules.len())?;
    Ok(changes)
}

/// The same in the maps of a running program.
pub(super) fn update(
    facts: &ProgramFacts,
    rules: &[Rule],
    others: Option<&Settings>,
    enforce: bool,
) -> Result<Changes, Error> {
    let map = |name, size| match facts.map(name)? {
        Some(map) if map.value_size() as usize == size => Ok(map),
        _ => {
            Err(Error::Invalid("what is applied is of another version: apply it again".to_owned()))
        }
    };
    let (rules_map, config) = (map(RULES, SETTINGS_SIZE)?, map(CONFIG, CONFIG_SIZE)?);
    write(&rules_map, &config, rules, others, enforce)
}

/// `struct settings`; None is zeros.
fn encode_settings(settings: Option<&Settings>) -> [u8; SETTINGS_SIZE] {
    let mut bytes = [0; SETTINGS_SIZE];
    if let Some(settings) = settings {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let probes = settings.probes.map_or(0, u32::from);
        let words = [seconds(settings.idle), seconds(settings.interval), probes];
        bytes.copy_from_slice(words.map(u32::to_ne_bytes).as_flattened());
    }
    bytes
}

fn decode_settings(pieces: &mut Pieces<'_>) -> Option<Settings> {
    let [idle, interval, probes] = [pieces.u32(), pieces.u32(), pieces.u32()];
    (idle != 0).then(|| Settings {
        idle: Duration::from_secs(idle.into()),
        interval: Duration::from_secs(interval.into()),
        probes: u8::try_from(probes).ok().filter(|probes| *probes != 0),
    })
}

/// `struct config`.
fn encode_config(others: Option<&Settings>, enforce: bool, rules: usize) -> Vec<u8> {
    let mut bytes = layout::text::<VERSION_LENGTH>(env!("CARGO_PKG_VERSION")).to_vec();
    bytes.extend(encode_settings(others));
    bytes.extend(u32::from(enforce).to_ne_bytes());
    bytes.extend(u32::try_from(rules).unwrap_or(u32::MAX).to_ne_bytes());
    bytes
}

/// `struct selector`.
fn encode_selector(selector: &Selector) -> Vec<u8> {
    let mut bytes = selector.netns.0.to_ne_bytes().to_vec();
    bytes.extend(layout::address(selector.peer));
    bytes.extend(selector.port.unwrap_or(0).to_be_bytes());
    bytes.resize(32, 0);
    bytes
}

fn decode_selector(bytes: &[u8]) -> Selector {
    let mut pieces = Pieces(bytes);
    Selector {
        netns: NetnsCookie(u64::from_ne_bytes(pieces.take())),
        peer: layout::address_of(pieces.take()),
        port: Some(u16::from_be_bytes(pieces.take())).filter(|port| *port != 0),
    }
}

/// Version and settings for other sockets that a running program has.
pub(super) fn read_config(facts: &ProgramFacts) -> Result<(String, Option<Settings>), Error> {
    let read = |source| Error::bpf("read", format!("map {CONFIG}"), source);
    let Some(map) = facts.map(CONFIG)? else { return Ok((String::new(), None)) };
    let value = map.lookup(&[0; 4], MapFlags::ANY).map_err(read)?.unwrap_or_default();
    let mut pieces = Pieces(&value);
    let version: [u8; VERSION_LENGTH] = pieces.take();
    Ok((layout::text_of(&version), decode_settings(&mut pieces)))
}

/// The rules that a running program has, in order.
pub(super) fn read_rules(facts: &ProgramFacts) -> Result<Vec<Rule>, Error> {
    let Some(map) = facts.map(RULES)? else { return Ok(Vec::new()) };
    let mut rules = Vec::new();
    for key in map.keys() {
        let value = map
            .lookup(&key, MapFlags::ANY)
            .map_err(|source| Error::bpf("read", format!("map {RULES}"), source))?;
        if let Some(settings) = value.and_then(|value| decode_settings(&mut Pieces(&value))) {
            rules.push(Rule { selector: decode_selector(&key), settings });
        }
    }
    rules.sort_unstable_by_key(|rule| rule.selector);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_come_back_from_their_bytes() {
        for (peer, port) in [
            (None, None),
            (Some("10.0.1.2"), None),
            (Some("10.0.1.2"), Some(7000)),
            (Some("fd00::1"), Some(1)),
        ] {
            let peer = peer.map(|peer| peer.parse().unwrap());
            let selector = Selector { netns: NetnsCookie(1 << 40), peer, port };
            let bytes = encode_selector(&selector);
            assert_eq!(bytes.len(), 32);
            assert_eq!(decode_selector(&bytes), selector);
        }
    }
}
