//! What was measured, and how it stands to the first way.

use std::{fmt, time::Duration};

use crate::load::{Done, Kind};

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Cell {
    done: Done,
    processor: Duration,
}

impl Cell {
    /// Of the processors', for each connection or request.
    fn each(&self) -> f64 {
        self.processor.as_secs_f64() / self.done.count.max(1) as f64
    }
}

/// Ways down, rounds across.
#[derive(Debug)]
pub struct Table {
    names: Vec<&'static str>,
    cells: Vec<[Vec<Cell>; 4]>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Table {
    pub fn new(names: Vec<&'static str>) -> Self {
        let cells = names.iter().map(|_| Default::default()).collect();
        Self { names, cells }
    }

    pub fn add(&mut self, way: usize, kind: Kind, done: Done, processor: Duration) {
        self.cells[way][kind as usize].push(Cell { done, processor });
    }

    /// The median over the rounds.
    fn is(&self, way: usize, kind: Kind, of: impl Fn(&Cell) -> f64) -> f64 {
        median(self.cells[way][kind as usize].iter().map(of).collect())
    }

    /// The median of each round's ratio to the first way in the same round.
    fn ratio(&self, way: usize, kind: Kind, of: impl Fn(&Cell) -> f64) -> f64 {
        let [these, first] = [way, 0].map(|way| &self.cells[way][kind as usize]);
        median(these.iter().zip(first).map(|(this, first)| of(this) / of(first)).collect())
    }
}

const MICRO: f64 = 1e6;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |cell: &Cell| cell.done.rate();
        let half = |cell: &Cell| cell.done.median.as_secs_f64();
        let p99 = |cell: &Cell| cell.done.p99.as_secs_f64();
        let rounds = self.cells[0][0].len();
        writeln!(f, "medians of {rounds} rounds; µs: median / 99 of 100 below; processor: both ends, proxy, kernel\n")?;
        writeln!(
            f,
            "{:34} {:>10} {:>15} {:>9} {:>10} {:>15} {:>9} {:>10} {:>9} {:>9}",
            "", "connects/s", "connect() µs", "cpu µs", "request/s", "one's µs", "cpu µs", "8 at once", "cpu µs", "bulk MB/s"
        )?;
        for (way, name) in self.names.iter().enumerate() {
            let micros = |kind, of: &dyn Fn(&Cell) -> f64| self.is(way, kind, of) * MICRO;
            let pair = |kind| format!("{:.1} / {:.1}", micros(kind, &half), micros(kind, &p99));
            writeln!(
                f,
                "{name:34} {:>10.0} {:>15} {:>9.1} {:>10.0} {:>15} {:>9.1} {:>10.0} {:>9.1} {:>9.0}",
                self.is(way, Kind::Connects, rate),
                pair(Kind::Connects),
                micros(Kind::Connects, &Cell::each),
                self.is(way, Kind::One, rate),
                pair(Kind::One),
                micros(Kind::One, &Cell::each),
                self.is(way, Kind::Many, rate),
                micros(Kind::Many, &Cell::each),
                self.is(way, Kind::Bulk, rate) / MICRO,
            )?;
        }
        writeln!(f, "\nratios to the backend directly, in the same round (its own repetition shows what is noise)\n")?;
        writeln!(
            f,
            "{:34} {:>10} {:>10} {:>9} {:>10} {:>9} {:>9} {:>10} {:>9} {:>9}",
            "", "connects/s", "connect()", "cpu", "request/s", "p99", "cpu", "8 at once", "cpu", "bulk"
        )?;
        for (way, name) in self.names.iter().enumerate().skip(1) {
            writeln!(
                f,
                "{name:34} {:>10.3} {:>10.3} {:>9.3} {:>10.3} {:>9.3} {:>9.3} {:>10.3} {:>9.3} {:>9.3}",
                self.ratio(way, Kind::Connects, rate),
                self.ratio(way, Kind::Connects, half),
                self.ratio(way, Kind::Connects, Cell::each),
                self.ratio(way, Kind::One, rate),
                self.ratio(way, Kind::One, p99),
                self.ratio(way, Kind::One, Cell::each),
                self.ratio(way, Kind::Many, rate),
                self.ratio(way, Kind::Many, Cell::each),
                self.ratio(way, Kind::Bulk, rate),
            )?;
        }
        Ok(())
    }
}
