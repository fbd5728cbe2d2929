//! One run at a time: who carries the migration out, and removing under that claim.

use std::time::Duration;

use super::{CONFLICTS, Found, Migration, PATIENCE, Progress};
use crate::plan::Which;
use crate::state::{Claim, State};
use crate::{EngineError, Mode, Service, Stop, spec};

impl Migration<'_> {
    /// Makes a migration that has begun this run's, whosever it was: the run that claims last has
    /// it, and one that died cannot say so. What must go is taken over, too. None where none has
    /// begun.
    pub(super) fn take_over(&mut self) -> Result<Option<State>, Stop> {
        for _ in 0..=CONFLICTS {
            let Some((copy, state)) = self.look()?.copy else { return Ok(None) };
            let before = Claim::read(&copy.spec);
            let removes = before.as_ref().and_then(|before| before.removes.clone());
            let is_doomed = removes.as_ref() == Some(&copy.id);
            if self.write(&copy, &[self.claim.removing(removes).label()])? {
                self.state = Some(state.clone());
                self.copy_seen = !is_doomed;
                if let Some(before) = before {
                    let note = format!("taken over from {before}: a run that is still there stops");
                    (self.tell)(Progress::Note(note));
                }
                return Ok(Some(state));
            }
            self.clock.sleep(self.settings.poll)?;
        }
        Err(self.moved())
    }

    /// Stops where the migration is somebody else's by now.
    pub(super) fn heed(&mut self, found: &Found, goal: Mode) -> Result<(), Stop> {
        match (&found.copy, &found.service) {
            (Some((copy, _)), _) => {
                self.check(copy)?;
                self.copy_seen = found.shape().doomed != Some(Which::Copy);
                Ok(())
            }
            (None, Some(service))
                if (self.copy_seen || self.copy_removed) && service.mode() != goal =>
            {
                Err(Stop::Ended { service: self.name.clone() })
            }
            _ => Ok(()),
        }
    }

    fn check(&self, copy: &Service) -> Result<(), Stop> {
        let claim = Claim::read(&copy.spec);
        if claim.as_ref().is_some_and(|claim| claim.run == self.claim.run) {
            return Ok(());
        }
        let by = claim.map_or_else(|| "which says no name".to_owned(), |it| it.to_string());
        Err(Stop::Overtaken { service: self.name.clone(), by })
    }

    /// Why a run really stopped: what another one does looks like a failure to this one.
    pub(super) fn reason(&mut self, why: Stop, goal: Mode) -> Stop {
        match &why {
            Stop::Interrupted
            | Stop::NameTaken(_)
            | Stop::Overtaken { .. }
            | Stop::Ended { .. } => return why,
            Stop::Engine(error) if error.is_passing() => return why,
            _ => {}
        }
        match self.look() {
            Ok(found) => self.heed(&found, goal).err().unwrap_or(why),
            Err(_) => why,
        }
    }

    /// The copy, if it is there; an error where another run has it.
    pub(super) fn held(&mut self) -> Result<Option<Service>, Stop> {
        let name = self.name_of(Which::Copy);
        let copy = self.patiently(|engine| engine.service(&name))?;
        copy.as_ref().map_or(Ok(()), |copy| self.check(copy))?;
        Ok(copy)
    }

    /// What was planned is not for what is there: all is looked at again.
    pub(super) fn moved(&self) -> Stop {
        let text = format!("{} or its copy is not what it was a moment ago", self.name);
        Stop::Engine(EngineError::Conflict(text))
    }

    /// Removes one of the two, if the other one serves this very moment and no run has set out to
    /// remove that one.
    pub(super) fn remove(&mut self, which: Which, found: &Found, goal: Mode) -> Result<(), Stop> {
        let name = self.name.clone();
        loop {
            // First the version that the claim is made on: whatever is written after that, the
            // claim fails.
            let Some(copy) = self.held()? else {
                return match which == Which::Copy && !self.copy_seen {
                    true => Ok(()),
                    false => Err(self.moved()),
                };
            };
            let service = self.patiently(|engine| engine.service(&name))?;
            let (target, other, other_is) = match (which, service) {
                (Which::Service, None) => return Ok(()),
                (Which::Service, Some(service)) => (service, copy.clone(), Which::Copy),
                (Which::Copy, None) => return Err(Stop::Lost(name)),
                (Which::Copy, Some(service)) => (copy.clone(), service, Which::Service),
            };
            let removes = Claim::read(&copy.spec).and_then(|claim| claim.removes);
            let is_doomed = removes.as_ref() == Some(&target.id);
            let is_planned = match which {
                Which::Service => found.service.as_ref().is_some_and(|it| it.id == target.id),
                Which::Copy => is_doomed || other.mode() == goal,
            };
            if !is_planned || removes.as_ref() == Some(&other.id) {
                return Err(self.moved());
            }
            if which == Which::Service
                && let Some(state) = self.state.clone()
                && !spec::same(&target.spec, &spec::with_mode(&state.spec, target.mode()))
            {
                if self.strict || !is_doomed {
                    return Err(Stop::Changed { service: name });
                }
                // It must go. The change is kept: it is created again with it.
                let labels = State { spec: target.spec, ..state }.labels();
                self.write(&copy, &labels)?;
                return Err(self.moved());
            }
            if !self.tally(&other, &mut None)?.is_complete() {
                self.wait_for(other_is, Duration::ZERO)?;
                continue;
            }
            let claim = self.claim.removing(Some(target.id.clone()));
            if !is_doomed && !self.write(&copy, &[claim.label()])? {
                return Err(self.moved());
            }
            self.patiently(|engine| engine.remove(&target.id))?;
            if which == Which::Copy {
                self.copy_seen = false;
                self.copy_removed = other.mode() == goal;
            }
            return Ok(());
        }
    }

    /// Writes labels of the copy, if nobody has written since `copy` was read; else it is `false`.
    fn write(&mut self, copy: &Service, labels: &[(&str, String)]) -> Result<bool, Stop> {
        let spec = spec::with_labels(&copy.spec, labels);
        let until = self.clock.now() + PATIENCE;
        loop {
            let Err(error) = self.engine.update(&copy.id, copy.version, &spec) else {
                return Ok(true);
            };
            // An Engine that says it failed may have done it, and says so too where the version is
            // another one ("update out of sequence", with status 500).
            let now = self.patiently(|engine| engine.service(copy.name()))?;
            match now.filter(|now| now.id == copy.id) {
                None => return Ok(false),
                Some(now) if now.version != copy.version => {
                    let is_there = |(key, value): &(&str, String)| {
                        now.spec["Labels"][*key].as_str() == Some(value)
                    };
                    return Ok(labels.iter().all(is_there));
                }
                Some(_) if error.is_passing() && self.clock.now() < until => {
                    (self.tell)(Progress::Waiting(error.to_string()));
                    self.clock.sleep(self.settings.poll)?;
                }
                Some(_) => return Err(error.into()),
            }
        }
    }
}
