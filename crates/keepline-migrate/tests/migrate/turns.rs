//! Two runs at a time, one call of one of them after the other: a script says who comes when.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use crate::model::{Crash, Swarm};

/// The model, shared by runs in threads of their own.
pub struct Shared(RwLock<Swarm>);

impl Shared {
    pub fn new(swarm: Swarm) -> Self {
        Self(RwLock::new(swarm))
    }

    pub fn borrow(&self) -> RwLockReadGuard<'_, Swarm> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn borrow_mut(&self) -> RwLockWriteGuard<'_, Swarm> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// This run makes so many calls, and is held up before the next one.
    Calls(usize, usize),
    /// This run goes on to its end.
    All(usize),
    /// This run dies before its next call.
    Dies(usize),
}

impl Turn {
    fn who(self) -> usize {
        match self {
            Self::Calls(who, _) | Self::All(who) | Self::Dies(who) => who,
        }
    }
}

#[derive(Default)]
struct Script {
    turns: VecDeque<Turn>,
    ended: [bool; 2],
}

/// Who comes when.
#[derive(Default)]
pub struct Turns {
    script: Mutex<Script>,
    moved: Condvar,
}

impl Turns {
    pub fn new(turns: &[Turn]) -> Arc<Self> {
        let script = Script { turns: turns.iter().copied().collect(), ..Script::default() };
        Arc::new(Self { script: Mutex::new(script), moved: Condvar::new() })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the runs.
#[derive(Clone)]
pub struct Player {
    pub turns: Arc<Turns>,
    pub who: usize,
}

impl Player {
    /// Waits for its turn, for one call.
    pub fn call(&self) {
        self.take(true);
    }

    /// Waits for its turn.
    pub fn wait(&self) {
        self.take(false);
    }

    fn take(&self, is_call: bool) {
        let mut script = self.turns.script();
        loop {
            let ended = script.ended;
            match script.turns.front_mut() {
                Some(turn) if matches!(turn, Turn::Calls(_, 0)) || ended[turn.who()] => {
                    script.turns.pop_front();
                    self.turns.moved.notify_all();
                    continue;
                }
                Some(Turn::Calls(who, left)) if *who == self.who => {
                    *left -= usize::from(is_call);
                    return;
                }
                Some(Turn::All(who)) if *who == self.who => return,
                Some(Turn::Dies(who)) if *who == self.who => {
                    drop(script);
                    resume_unwind(Box::new(Crash));
                }
                Some(_) => {}
                None => return,
            }
            script = self.turns.moved.wait(script).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends a run for the others, however it ends.
pub struct Ending(pub Player);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.turns.script().ended[self.0.who] = true;
        self.0.turns.moved.notify_all();
    }
}
