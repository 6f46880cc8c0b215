//! A fake desk: the test answers, by hand or by ringing through what it wants to be seen.
//!
//! Owns which approvals are used up, for all sessions that share it. Touches memory only. Invariant: an approval is
//! used up by one command, however many try.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sallyport_core::asking::{DeskFault, Question, Sheet, Standing};
use sallyport_core::ports::{Answer, ApprovalDesk};
use sallyport_policy::Reply;
use tokio::sync::{Semaphore, mpsc, watch};

/// A question as the desk got it, and where its answer goes.
#[derive(Debug)]
pub struct Asking {
    pub question: Arc<Question>,
    pub sheet: watch::Sender<Sheet>,
}

pub struct FakeDesk {
    asked: mpsc::UnboundedSender<Asking>,
    /// Names of those used up.
    pub spent: Mutex<BTreeSet<String>>,
    /// Shut while using one up is to take its time.
    pub open: Arc<Semaphore>,
}

impl FakeDesk {
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Asking>) {
        let (asked, questions) = mpsc::unbounded_channel();
        let desk = Self { asked, spent: Mutex::default(), open: Arc::new(Semaphore::new(1)) };
        (Arc::new(desk), questions)
    }
}

impl ApprovalDesk for FakeDesk {
    fn ask(&self, question: Arc<Question>) -> watch::Receiver<Sheet> {
        let (sheet, receiver) = watch::channel(Sheet::Sent);
        self.asked.send(Asking { question, sheet }).unwrap();
        receiver
    }

    fn consume(&self, _question: Arc<Question>, name: String) -> Answer<'static, Result<(), DeskFault>> {
        let first = self.spent.lock().unwrap().insert(name);
        let open = Arc::clone(&self.open);
        Box::pin(async move {
            drop(open.acquire().await.unwrap());
            if first { Ok(()) } else { Err(DeskFault::Spent) }
        })
    }
}

impl Asking {
    /// It stands there under that name, with those answers: `+alice` approves, `-bob` denies.
    pub fn stands(&self, name: &str, answers: &[&str]) {
        let reply = |answer: &&str| Reply {
            by: answer[1..].to_owned(),
            approves: answer.starts_with('+'),
            comment: answer.starts_with('-').then(|| "not today".to_owned()),
        };
        let standing = Standing {
            name: name.to_owned(),
            expires: SystemTime::now() + Duration::from_secs(24 * 3600),
            requested_by: None,
            replies: answers.iter().map(reply).collect(),
            spent: false,
        };
        self.sheet.send_replace(Sheet::Put(standing));
    }

    /// Whether whoever asked has lost interest.
    pub async fn let_go(self) {
        tokio::time::timeout(Duration::from_secs(3600), self.sheet.closed()).await.expect("the question is still held");
    }
}
