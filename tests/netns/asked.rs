//! While somebody is asked, and when nobody listens any more.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{
    lab::{Lab, keepline},
    run::{Run, established},
};

/// A command on a terminal of its own, which asks.
struct Asked {
    child: Child,
    to: ChildStdin,
    said: String,
}

impl Asked {
    fn until_it_asks(run: &Run, arguments: &[&str]) -> Self {
        let mut line = vec![keepline().get_program().to_string_lossy().into_owned()];
        line.extend(arguments.iter().map(|it| (*it).to_owned()));
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"])
            .envs(run.command(&[]).get_envs().filter_map(|(key, value)| Some((key, value?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let mut said = Vec::new();
        let from = child.stdout.as_mut().unwrap();
        while !String::from_utf8_lossy(&said).contains("[y/N]") {
            let mut byte = [0];
            assert_eq!(from.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        Self { child, to, said: String::from_utf8_lossy(&said).into_owned() }
    }

    /// Exit status and what was said.
    fn answer(mut self, answer: &str) -> (i32, String) {
        writeln!(self.to, "{answer}").unwrap();
        let mut rest = String::new();
        self.child.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        (status.code().unwrap(), self.said + &rest)
    }
}

/// Who thinks about a plan keeps nobody from changing something: a guard could hold nothing.
#[test]
fn a_question_locks_nobody_out() {
    needs_root_and_nft!();
    let run = Run::new("asked");
    let lab = Lab::up("asked", &["--sessions", "2", "--tcp-timeout", "1m"]);
    let set = |tcp| ["apply", "timeout", "--tcp", tcp, "--netns", &lab.director];
    let asked = Asked::until_it_asks(&run, &set("2h"));
    run.done(&[&set("3h")[..], &["--yes"]].concat());
    let (status, said) = asked.answer("y");
    // What is there by now is not what was shown.
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("10800"), "{said}");
    assert_eq!(established(&lab), "10800");

    let asked = Asked::until_it_asks(&run, &["undo"]);
    run.done(&[&set("4h")[..], &["--yes"]].concat());
    let (status, said) = asked.answer("y");
    assert_eq!((status, established(&lab).as_str()), (2, "14400"), "{said}");
    assert!(said.contains("has changed meanwhile"), "{said}");
    let (status, said) = Asked::until_it_asks(&run, &["undo"]).answer("n");
    assert_eq!((status, established(&lab).as_str()), (1, "14400"), "{said}");
    let (status, said) = Asked::until_it_asks(&run, &["undo"]).answer("y");
    assert_eq!((status, established(&lab).as_str()), (0, "60"), "{said}");
}

/// A terminal that is gone, a pipe whose reader has ended.
#[test]
fn who_holds_goes_on_when_nobody_listens() {
    needs_root_and_nft!();
    let run = Run::new("unheard");
    let lab = Lab::up("unheard", &["--sessions", "3", "--tcp-timeout", "12s"]);
    let mut hold = run
        .command(&["apply", "hold", "--netns", &lab.client, "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = BufReader::new(hold.stderr.take().unwrap());
    let mut line = String::new();
    heard.read_line(&mut line).unwrap();
    assert!(line.contains("holding"), "{line}");
    drop(heard);
    sleep(Duration::from_secs(30));
    assert_eq!(hold.try_wait().unwrap(), None, "it goes on");
    assert!(lab.write().contains("survived 3 lost 0"));
    hold.kill().unwrap();
    hold.wait().unwrap();
}
