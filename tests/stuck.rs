//! A datastore that hangs (a lost NFS server) holds up whoever asks for it, and nobody else.
#![allow(clippy::unwrap_used)]

mod client;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use client::{Running, entry};
use importfs::share::directory::DirectoryShare;
use importfs::smb::share::{Caller, OpenGate, OpenRequest, Opened, Refusal, Share, ShareTraits, Volume};
use smb_proto::msg::{create, echo};
use smb_proto::{Command, Status};

/// More requests than a runtime has threads that may block, if nobody says otherwise.
const ASKED: usize = 600;

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// Opens the gate at the latest when the test has failed: a server does not end before what it works on.
struct AtTheEnd(Arc<Gate>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A share on which nothing is opened before its gate is.
struct Hanging {
    gate: Arc<Gate>,
    share: DirectoryShare,
}

impl Share for Hanging {
    fn traits(&self) -> ShareTraits {
        ShareTraits { is_slow: true, ..self.share.traits() }
    }
    fn volume(&self) -> Result<Volume, Status> {
        self.share.volume()
    }
    fn open(
        &self,
        request: &OpenRequest,
        caller: &Caller,
        gate: &mut dyn OpenGate,
    ) -> Result<Opened, Refusal> {
        let open = self.gate.open.lock().unwrap();
        drop(self.gate.changed.wait_while(open, |open| !*open).unwrap());
        self.share.open(request, caller, gate)
    }
}

#[test]
fn a_share_that_hangs_holds_up_nobody_elses_requests() {
    let (gate, folder) = (Arc::new(Gate::default()), tempfile::tempdir().unwrap());
    let hanging =
        Hanging { gate: Arc::clone(&gate), share: DirectoryShare::open(folder.path(), "hanging").unwrap() };
    let running =
        Running::start(|settings| settings.shares.push(Arc::new(entry("hanging", Arc::new(hanging)))));
    let _opened = AtTheEnd(Arc::clone(&gate));
    let mut stuck = running.login("alice");
    assert_eq!(stuck.tree_connect("hanging"), Status::SUCCESS);
    for _ in 0..ASKED / 50 {
        stuck.request(Command::ECHO, |out| echo::Request.encode(out)).unwrap(); // 64 credits each
    }
    for _ in 0..ASKED {
        stuck.post_create("a", create::oplock::NONE);
    }
    // One in 50 ms begins, until as many are under way as one client may have; then the others are served as before.
    std::thread::sleep(Duration::from_secs(7));
    let begun = Instant::now();
    for user in ["bob", "carol"] {
        let mut client = running.login(user);
        let file = client.create(user).file_id();
        assert_eq!(client.create(user).status(), Status::SUCCESS);
        assert_ne!(file, smb_proto::msg::FileId::ANY);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(blocked() < 100, "{} threads for one client", blocked());
    gate.open();
    let mut answered = 0;
    while answered < ASKED {
        let answer = stuck.receive().unwrap();
        answered += usize::from(answer.status() == Status::SUCCESS);
        assert!(
            matches!(answer.status(), Status::SUCCESS | Status::PENDING),
            "{:?} after {answered}",
            answer.status()
        );
    }
}

/// Threads of this process.
fn blocked() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
