//! `keepline check`

use std::io::{self, Write};

use keepline_core::finding::Code;
use keepline_core::report::{Check, Style, human, json, nagios};
use keepline_core::{Judgement, Options, Snapshot, judge};

use keepline_node::{Checked, Owners, Way};

use super::watch;
use crate::args::{CheckArgs, CheckOutput, FailOn};
use crate::fault::fault;
use crate::{output, select};

/// Nothing to report.
const CLEAN: u8 = 0;
/// Sessions at or above `--fail-on`.
const FOUND: u8 = 1;
/// Part of the machine could not be seen.
const INCOMPLETE: u8 = 3;
/// People see a hundred rows; the most urgent thousand sessions have those of nearly all tables.
const NAMED: usize = 1000;

/// Looks, judges, prints.
///
/// # Errors
/// When it could not run. A monitoring system is told in its own form instead.
pub fn run(args: &CheckArgs) -> anyhow::Result<u8> {
    match args.watch {
        None => match once(args) {
            Err(error) if args.output == CheckOutput::Nagios => {
                output::print(&nagios::failed(&format!("{error:#}")))?;
                Ok(nagios::State::Unknown.exit_status())
            }
            done => done,
        },
        Some(_) if args.output == CheckOutput::Nagios => Err(fault(
            "--watch cannot be used with -o nagios",
            "a monitoring system repeats the check itself",
        )),
        Some(interval) => watch::run(args, interval),
    }
}

fn once(args: &CheckArgs) -> anyhow::Result<u8> {
    let look = Look::take(args)?;
    output::stdout(|out| look.render(out, args, output::style()))?;
    Ok(look.status(args))
}

/// One look and what it means.
pub(super) struct Look {
    pub(super) snapshot: Snapshot,
    judgement: Judgement,
}

impl Look {
    pub(super) fn take(args: &CheckArgs) -> anyhow::Result<Self> {
        let owners = match args.output {
            CheckOutput::Json => Owners::All,
            CheckOutput::Human if args.all => Owners::MostUrgent(NAMED),
            CheckOutput::Human => Owners::OfTrouble(NAMED),
            CheckOutput::Nagios => Owners::MostUrgent(0),
        };
        let select = args.select.to_select();
        let options = Options { horizon: args.horizon };
        if args.from.is_none() {
            let checked = keepline_node::check(&select, owners, &options, Way::Best)?;
            let Checked { snapshot, judgement, .. } = checked;
            return Ok(Self { snapshot, judgement });
        }
        let snapshot = select::snapshot(args.from.as_deref(), &select, owners)?;
        let judgement = judge(&snapshot, &options);
        Ok(Self { snapshot, judgement })
    }

    fn check(&self, args: &CheckArgs) -> Check<'_> {
        Check::new(&self.snapshot, &self.judgement, args.all)
    }

    pub(super) fn render(
        &self,
        out: &mut dyn Write,
        args: &CheckArgs,
        style: Style,
    ) -> io::Result<()> {
        let check = self.check(args);
        match args.output {
            CheckOutput::Human => out.write_all(human::check(&check, style).as_bytes()),
            CheckOutput::Json => json::check(out, &check),
            CheckOutput::Nagios => out.write_all(nagios::check(&check).as_bytes()),
        }
    }

    pub(super) fn status(&self, args: &CheckArgs) -> u8 {
        if args.output == CheckOutput::Nagios {
            return nagios::state(&self.check(args)).exit_status();
        }
        let summary = self.judgement.summary;
        let found = match args.fail_on {
            FailOn::Orphaned => summary.orphaned > 0,
            FailOn::AtRisk => summary.orphaned + summary.at_risk > 0,
            FailOn::Never => false,
        };
        // The finding stands for namespaces that could not be read, and for sessions whose
        // second look failed.
        let incomplete =
            self.judgement.findings.iter().any(|finding| finding.code == Code::SCAN_INCOMPLETE);
        match (found, incomplete) {
            (true, _) => FOUND,
            (false, true) => INCOMPLETE,
            (false, false) => CLEAN,
        }
    }
}
