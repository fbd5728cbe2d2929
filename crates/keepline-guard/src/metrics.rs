//! What is told to Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use keepline_core::{Judgement, Snapshot, Verdict, names::Namer, plan::Action};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Metric, Registry, Unit},
};

type Labels = Vec<(&'static str, String)>;
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// More pairs of network and service than this are counted together as `other`: names are made by
/// others, and every one is a time series.
const MOST_SERVICES: usize = 200;
const OTHER: &str = "other";

/// Every metric.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    sessions: Family<Labels, Gauge>,
    next_loss: Family<Labels, Seconds>,
    pub(crate) orphaned: Counter,
    pub(crate) held: Counter,
    pub(crate) healed: Counter,
    actions: Family<Labels, Counter>,
    pub(crate) scan: Histogram,
    pub(crate) reconcile: Histogram,
    passes: Family<Labels, Counter>,
    pub(crate) last: Seconds,
    pub(crate) incomplete: Gauge,
    pub(crate) invalid: Gauge,
}

/// Registers a metric and gives it.
fn new<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// The same of one that counts seconds.
fn seconds<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

/// From a millisecond to half a minute.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keepline");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "This program", build);
        let to = &mut registry;
        Self {
            sessions: new(to, "sessions", "Sessions through load balancers", Family::default()),
            next_loss: seconds(
                to,
                "next_loss",
                "Until the first session is forgotten that nothing keeps",
                Family::default(),
            ),
            orphaned: new(
                to,
                "sessions_orphaned",
                "Sessions that were found forgotten",
                Counter::default(),
            ),
            held: new(to, "entries_held", "Entries that were renewed", Counter::default()),
            healed: new(
                to,
                "sessions_healed",
                "Forgotten sessions that were brought back",
                Counter::default(),
            ),
            actions: new(to, "actions", "Changes, by what came of them", Family::default()),
            scan: seconds(to, "scan_duration", "A look at this machine", durations()),
            reconcile: seconds(
                to,
                "reconcile_duration",
                "A look and what followed from it",
                durations(),
            ),
            passes: new(to, "reconciles", "Passes, by how they ended", Family::default()),
            last: seconds(
                to,
                "last_reconcile_timestamp",
                "End of the last pass, since 1970",
                Seconds::default(),
            ),
            incomplete: new(
                to,
                "scan_incomplete",
                "Places that could not be read in the last look",
                Gauge::default(),
            ),
            invalid: new(to, "policy_invalid", "Policy values that say nothing", Gauge::default()),
            registry,
        }
    }
}

impl Metrics {
    /// What was seen.
    pub(crate) fn saw(&self, snapshot: &Snapshot, judgement: &Judgement) {
        let namer = Namer::new(snapshot);
        let mut counts: BTreeMap<(Verdict, String, String), i64> = BTreeMap::new();
        let mut losses: BTreeMap<String, Duration> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for session in &judgement.sessions {
            let names = namer.of(session);
            let network = names.network.map_or("", |network| network.name.as_str());
            let service = names.service.unwrap_or_default();
            let pair = (network.to_owned(), service.to_owned());
            let room = known.len() < MOST_SERVICES || known.contains(&pair);
            let (network, service) = if room {
                known.insert(pair.clone());
                pair
            } else {
                (OTHER.to_owned(), OTHER.to_owned())
            };
            if let Some(loss) = session.orphaned_in.filter(|_| session.verdict == Verdict::AtRisk) {
                let first = losses.entry(network.clone()).or_insert(loss);
                *first = loss.min(*first);
            }
            *counts.entry((session.verdict, network, service)).or_default() += 1;
        }
        self.sessions.clear();
        for ((verdict, network, service), count) in counts {
            let verdict = verdict.name().to_owned();
            let labels = vec![("verdict", verdict), ("network", network), ("service", service)];
            self.sessions.get_or_create(&labels).set(count);
        }
        self.next_loss.clear();
        for (network, loss) in losses {
            self.next_loss.get_or_create(&vec![("network", network)]).set(loss.as_secs_f64());
        }
        self.incomplete.set(i64::try_from(snapshot.incomplete.len()).unwrap_or(i64::MAX));
    }

    /// What came of changes.
    pub(crate) fn acted(&self, action: Action, result: &str, count: usize) {
        if count > 0 {
            let labels = vec![("action", action.name().to_owned()), ("result", result.to_owned())];
            self.actions.get_or_create(&labels).inc_by(count as u64);
        }
    }

    /// How a pass ended.
    pub(crate) fn passed(&self, result: &str) {
        self.passes.get_or_create(&vec![("result", result.to_owned())]).inc();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
