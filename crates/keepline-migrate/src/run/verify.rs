//! Seeing from inside the networks where the name leads.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Migration, Progress};
use crate::plan::Which;
use crate::{Mode, Names, Network, Service, Stop, names};

/// For so long stale names may stand before it is said.
const STALE: Duration = Duration::from_secs(30);

impl Migration<'_> {
    /// Sees in each network that the name leads to the tasks of `which`; at the end, that it leads
    /// nowhere else.
    pub(super) fn verify(&mut self, which: Which, goal: Mode) -> Result<(), Stop> {
        for network in self.networks.clone() {
            let begun = self.clock.now();
            let mut told = String::new();
            loop {
                let text = match self.seen_from(&network, which, goal)? {
                    Ok(()) => break,
                    Err(text) => text,
                };
                if told != text {
                    (self.tell)(Progress::Waiting(text.clone()));
                    told = text;
                }
                let waited_for = format!("{} in network {}", self.name, network.name);
                let limit = match self.copy_removed {
                    true => STALE.min(self.settings.timeout),
                    false => self.settings.timeout,
                };
                self.in_time(begun, limit, &waited_for, &told)?;
                self.clock.sleep(self.settings.poll)?;
            }
        }
        Ok(())
    }

    /// One look into one network; what is wrong, in words.
    fn seen_from(
        &mut self,
        network: &Network,
        which: Which,
        goal: Mode,
    ) -> Result<Result<(), String>, Stop> {
        let found = self.look()?;
        let (service, copy) = (found.service.as_ref(), found.copy.as_ref().map(|(copy, _)| copy));
        let meant = match which {
            Which::Service => service,
            Which::Copy => copy,
        };
        let Some(meant) = meant else { return Err(Stop::Lost(self.name_of(which))) };
        if self.copy_removed && meant.mode() != goal {
            return Err(Stop::Ended { service: self.name.clone() });
        }
        let tasks = self.patiently(|engine| engine.tasks(meant.name()))?;
        let expected = names::expected(meant, &tasks).remove(&network.id).unwrap_or_default();
        let carriers: Vec<&str> =
            [service, copy].into_iter().flatten().map(Service::name).collect();
        let name = self.name.clone();
        let answer = match self.patiently(|engine| engine.names(&network.id, &name, &carriers))? {
            Names::NotHere => {
                (self.tell)(Progress::Note(format!(
                    "network {}: not looked up, none of its tasks run on this node",
                    network.name
                )));
                return Ok(Ok(()));
            }
            Names::Asked(answer) | Names::Listed(answer) => answer,
        };
        if !names::leads_to(&answer, &expected) {
            return Ok(Err(format!(
                "in {} the name leads to {}, not yet to {}",
                network.name,
                list(&answer),
                list(&expected)
            )));
        }
        if self.copy_removed {
            let around = self.patiently(|engine| engine.surroundings())?;
            let stale = names::stale(&answer, &names::live(&around));
            if !stale.is_empty() {
                return Ok(Err(format!(
                    "in {} the name still leads to {}, where nobody is",
                    network.name,
                    list(&stale)
                )));
            }
        }
        (self.tell)(Progress::Waiting(format!("in {}: {}", network.name, list(&answer))));
        Ok(Ok(()))
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    /// More than these are read by nobody.
    const SHOWN: usize = 6;
    if addresses.is_empty() {
        return "nothing".to_owned();
    }
    let mut shown: Vec<String> = addresses.iter().take(SHOWN).map(ToString::to_string).collect();
    if addresses.len() > SHOWN {
        shown.push(format!("{} more", addresses.len() - SHOWN));
    }
    shown.join(", ")
}
