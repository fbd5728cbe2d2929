//! What the Engine told, kept: it is asked when something has changed, and now and then. While it
//! does not answer, what it said last holds on, and nothing waits for it: an Engine that starts makes
//! directors before it answers.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use keepline_core::snapshot::Topology;

use crate::bell::Ring;

/// Between two answers that nothing asked for.
const SELDOM: Duration = Duration::from_secs(60);
/// After none.
const SOON: Duration = Duration::from_secs(2);
/// A pass waits so long for an answer. One that comes later wakes the guard.
const BRIEFLY: Duration = Duration::from_millis(500);

/// What it tells; nothing where there is none; or why it tells nothing though it should.
type Answer = Result<Option<Topology>, String>;

/// The Engine as it is remembered.
#[derive(Debug)]
pub(crate) struct Engine {
    ask: fn() -> Answer,
    rope: Sender<Ring>,
    topology: Option<Topology>,
    again: Option<Instant>,
    /// Asked, and not heard yet.
    asked: Option<Asked>,
    /// Something has changed since it was asked.
    stirred: bool,
    /// The first answer is waited for: by it the guard knows what holds where.
    first: bool,
    /// Why it told nothing, if it should have.
    pub(crate) silent: Option<String>,
}

#[derive(Debug)]
struct Asked {
    answer: Receiver<Answer>,
    /// Nobody waits for it any more: it has to ring.
    late: Arc<AtomicBool>,
}

impl Engine {
    /// Nothing is known of it yet. `rope` is rung when an answer comes that no pass waited for.
    pub(crate) fn new(rope: Sender<Ring>) -> Self {
        Self::asked_by(keepline_node::topology, rope)
    }

    fn asked_by(ask: fn() -> Answer, rope: Sender<Ring>) -> Self {
        Self {
            ask,
            rope,
            topology: None,
            again: None,
            asked: None,
            stirred: false,
            first: true,
            silent: None,
        }
    }

    /// Something has changed there.
    pub(crate) fn stir(&mut self) {
        self.again = None;
        self.stirred = true;
    }

    /// The folder in which it names namespaces, where one of them is there: its exec-root may be
    /// anywhere.
    pub(crate) fn namespaces(&self) -> Option<PathBuf> {
        let folder = self.topology.as_ref()?.netns_folder.as_ref()?;
        std::fs::canonicalize(folder).ok()
    }

    /// What it tells, asked anew where that is due.
    pub(crate) fn topology(&mut self) -> Option<Topology> {
        self.hear(Duration::ZERO);
        let due = self.again.is_none_or(|again| again <= Instant::now());
        if self.asked.is_none() && due {
            self.stirred = false;
            self.begin();
            // It gives up by itself.
            self.hear(if self.first { Duration::MAX } else { BRIEFLY });
            self.first = false;
        }
        self.topology.clone()
    }

    fn begin(&mut self) {
        let (tell, answer) = channel();
        let late = Arc::new(AtomicBool::new(false));
        let (ask, rope, is_late) = (self.ask, self.rope.clone(), Arc::clone(&late));
        let work = move || {
            let told = tell.send(ask()).is_ok();
            if told && is_late.load(Ordering::SeqCst) {
                let _ = rope.send(Ring::Asked);
            }
        };
        match thread::Builder::new().name("engine".to_owned()).spawn(work) {
            Ok(_) => self.asked = Some(Asked { answer, late }),
            Err(error) => self.took(Err(format!("ask the Docker Engine: {error}"))),
        }
    }

    /// Takes the answer, where it comes within `time`.
    fn hear(&mut self, time: Duration) {
        let Some(asked) = self.asked.take() else { return };
        let heard = asked.answer.recv_timeout(time).or_else(|_| {
            asked.late.store(true, Ordering::SeqCst);
            // It may have come before it was told to ring.
            asked.answer.recv_timeout(Duration::ZERO)
        });
        match heard {
            Ok(answer) => self.took(answer),
            Err(RecvTimeoutError::Timeout) => self.asked = Some(asked),
            Err(RecvTimeoutError::Disconnected) => {
                self.took(Err("asking the Docker Engine failed".to_owned()));
            }
        }
    }

    fn took(&mut self, answer: Answer) {
        let now = Instant::now();
        let again = match answer {
            // In part is worse than a minute old.
            Ok(Some(told)) if !told.incomplete.is_empty() && self.topology.is_some() => {
                self.silent = told.incomplete.first().cloned();
                SOON
            }
            Ok(told) => {
                self.silent = told.as_ref().and_then(|told| told.incomplete.first().cloned());
                // One that was there and whose socket is gone is being replaced.
                let whole = told.is_some() && self.silent.is_none();
                self.topology = told.or(self.topology.take());
                if whole { SELDOM } else { SOON }
            }
            Err(why) => {
                self.silent = Some(why);
                SOON
            }
        };
        self.again = (!self.stirred).then(|| now + again);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Held while the Engine of the test does not answer.
    static HUNG: Mutex<()> = Mutex::new(());

    fn slow() -> Answer {
        drop(HUNG.lock().unwrap());
        Ok(Some(Topology { engine: Some("told".to_owned()), ..Topology::default() }))
    }

    fn refuses() -> Answer {
        Err("refused".to_owned())
    }

    #[test]
    fn nothing_waits_for_an_engine_that_hangs_and_its_answer_rings() {
        let (rope, bell) = channel();
        let mut engine = Engine::asked_by(slow, rope);
        assert!(engine.topology().is_some(), "the first is waited for");
        engine.topology = None;
        let hung = HUNG.lock().unwrap();
        engine.stir();
        let begun = Instant::now();
        assert_eq!(engine.topology(), None);
        assert!(begun.elapsed() >= BRIEFLY && begun.elapsed() < BRIEFLY * 3);
        engine.stir();
        let begun = Instant::now();
        assert_eq!(engine.topology(), None);
        assert!(begun.elapsed() < BRIEFLY, "it is asked once");
        assert!(bell.try_recv().is_err());
        drop(hung);
        assert_eq!(bell.recv_timeout(Duration::from_secs(20)), Ok(Ring::Asked));
        engine.hear(Duration::ZERO);
        assert!(engine.topology.is_some());
        assert_eq!(engine.again, None, "something has changed since: it is asked again");
        assert!(engine.topology().is_some() && engine.again.is_some());
        assert!(bell.try_recv().is_err(), "what was waited for does not ring");
    }

    #[test]
    fn the_folder_of_namespaces_is_where_it_says_if_it_is_there() {
        let (rope, _bell) = channel();
        let mut engine = Engine::asked_by(slow, rope);
        assert_eq!(engine.namespaces(), None);
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &std::path::Path| Topology {
            netns_folder: Some(path.to_str().unwrap().to_owned()),
            ..Topology::default()
        };
        engine.topology = Some(told(folder.path()));
        assert_eq!(engine.namespaces(), folder.path().canonicalize().ok());
        engine.topology = Some(told(&folder.path().join("gone")));
        assert_eq!(engine.namespaces(), None);
    }

    #[test]
    fn what_was_told_last_holds_on() {
        let (rope, _bell) = channel();
        let mut engine = Engine::asked_by(slow, rope);
        assert!(engine.topology().is_some() && engine.silent.is_none());
        engine.ask = refuses;
        engine.stir();
        assert!(engine.topology().is_some());
        assert_eq!(engine.silent.as_deref(), Some("refused"));
    }
}
