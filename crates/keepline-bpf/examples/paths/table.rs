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

/// Which round counts: the least disturbed one.
#[derive(Debug, Clone, Copy)]
enum Best {
    Most,
    Least,
}

impl Table {
    pub fn new(names: Vec<&'static str>) -> Self {
        let cells = names.iter().map(|_| Default::default()).collect();
        Self { names, cells }
    }

    pub fn add(&mut self, way: usize, kind: Kind, done: Done, processor: Duration) {
        self.cells[way][kind as usize].push(Cell { done, processor });
    }

    /// In the best round.
    fn is(&self, way: usize, kind: Kind, best: Best, of: impl Fn(&Cell) -> f64) -> f64 {
        let all = self.cells[way][kind as usize].iter().map(of);
        match best {
            Best::Most => all.reduce(f64::max),
            Best::Least => all.reduce(f64::min),
        }
        .unwrap_or(f64::NAN)
    }

    /// How that stands to the first way's.
    fn ratio(&self, way: usize, kind: Kind, best: Best, of: impl Fn(&Cell) -> f64) -> f64 {
        self.is(way, kind, best, &of) / self.is(0, kind, best, &of)
    }
}

const MICRO: f64 = 1e6;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |cell: &Cell| cell.done.rate();
        let half = |cell: &Cell| cell.done.median.as_secs_f64();
        let p99 = |cell: &Cell| cell.done.p99.as_secs_f64();
        let rounds = self.cells[0][0].len();
        writeln!(
            f,
            "best of {rounds} rounds; µs: median / 99 of 100 below; cpu: both ends, proxy, kernel\n"
        )?;
        writeln!(
            f,
            "{:34} {:>10} {:>15} {:>9} {:>10} {:>15} {:>9} {:>10} {:>9} {:>9}",
            "",
            "connects/s",
            "connect() µs",
            "cpu µs",
            "request/s",
            "one's µs",
            "cpu µs",
            "8 at once",
            "cpu µs",
            "bulk MB/s"
        )?;
        for (way, name) in self.names.iter().enumerate() {
            let micros =
                |kind, of: &dyn Fn(&Cell) -> f64| self.is(way, kind, Best::Least, of) * MICRO;
            let pair = |kind| format!("{:.1} / {:.1}", micros(kind, &half), micros(kind, &p99));
            writeln!(
                f,
                "{name:34} {:>10.0} {:>15} {:>9.1} {:>10.0} {:>15} {:>9.1} {:>10.0} {:>9.1} {:>9.0}",
                self.is(way, Kind::Connects, Best::Most, rate),
                pair(Kind::Connects),
                micros(Kind::Connects, &Cell::each),
                self.is(way, Kind::One, Best::Most, rate),
                pair(Kind::One),
                micros(Kind::One, &Cell::each),
                self.is(way, Kind::Many, Best::Most, rate),
                micros(Kind::Many, &Cell::each),
                self.is(way, Kind::Bulk, Best::Most, rate) / MICRO,
            )?;
        }
        writeln!(f, "\nratios to the backend directly (its repetition shows what is noise)\n")?;
        writeln!(
            f,
            "{:34} {:>10} {:>10} {:>9} {:>10} {:>9} {:>9} {:>10} {:>9} {:>9}",
            "",
            "connects/s",
            "connect()",
            "cpu",
            "request/s",
            "p99",
            "cpu",
            "8 at once",
            "cpu",
            "bulk"
        )?;
        for (way, name) in self.names.iter().enumerate().skip(1) {
            writeln!(
                f,
                "{name:34} {:>10.3} {:>10.3} {:>9.3} {:>10.3} {:>9.3} {:>9.3} {:>10.3} {:>9.3} {:>9.3}",
                self.ratio(way, Kind::Connects, Best::Most, rate),
                self.ratio(way, Kind::Connects, Best::Least, half),
                self.ratio(way, Kind::Connects, Best::Least, Cell::each),
                self.ratio(way, Kind::One, Best::Most, rate),
                self.ratio(way, Kind::One, Best::Least, p99),
                self.ratio(way, Kind::One, Best::Least, Cell::each),
                self.ratio(way, Kind::Many, Best::Most, rate),
                self.ratio(way, Kind::Many, Best::Least, Cell::each),
                self.ratio(way, Kind::Bulk, Best::Most, rate),
            )?;
        }
        Ok(())
    }
}
