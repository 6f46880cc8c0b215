//! A command held in line while people are asked about it.
//!
//! Owns the wait: what the client is told meanwhile, and what ends it. Touches the desk. Invariants: nothing is decoded
//! behind it; it ends at its deadline; whatever the answer, the command is decided on again before it may go upstream,
//! and only after its approval was used up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sallyport_policy::{Denial, NotApproved, Tally};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Conversing;
use crate::asking::{DeskFault, NobodyThere, Question, Sheet, Standing};
use crate::fault::Fault;
use crate::gate::{Asked, not_approved};
use crate::ports::{Answer, ApprovalDesk, Io};
use crate::protocol::{Conversation, Notice, Protocol};

/// How often a client is told that its command still waits: many give up on a connection that says nothing.
const WORD: Duration = Duration::from_secs(30);

type Heard = Pin<Box<dyn Future<Output = Option<watch::Receiver<Sheet>>> + Send>>;

/// A command that waits.
pub(super) struct Held<C> {
    asked: Asked<C>,
    vigil: Vigil,
}

/// Its wait.
pub(super) struct Vigil {
    question: Arc<Question>,
    wait: Wait,
    until: Instant,
    timer: Pin<Box<Sleep>>,
    /// How the question stood when it was last looked at.
    standing: Option<Standing>,
    /// What the client is to be told as soon as it can be.
    word: Option<Notice>,
}

enum Wait {
    /// For an answer.
    Answer(Heard),
    /// For the approval to be used up.
    Use(Answer<'static, Result<(), DeskFault>>),
}

/// What ends a wait, or says something about it.
pub(super) enum News {
    Sheet(Sheet),
    Used(Result<(), DeskFault>),
    Time,
}

impl<C> Held<C> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        let Vigil { wait, timer, .. } = &mut self.vigil;
        match wait {
            Wait::Answer(heard) => {
                if let Poll::Ready(receiver) = heard.as_mut().poll(cx) {
                    let sheet = match receiver {
                        Some(mut receiver) => {
                            let sheet = receiver.borrow_and_update().clone();
                            *heard = Box::pin(hear(receiver));
                            sheet
                        }
                        None => {
                            *heard = Box::pin(std::future::pending());
                            Sheet::Failed { told: "the question was dropped: send the command again".to_owned() }
                        }
                    };
                    return Poll::Ready(News::Sheet(sheet));
                }
            }
            // It has a deadline of its own, and its end must be known.
            Wait::Use(used) => return used.as_mut().poll(cx).map(News::Used),
        }
        timer.as_mut().poll(cx).map(|()| News::Time)
    }
}

impl Vigil {
    /// Puts the question.
    fn begin(desk: &dyn ApprovalDesk, question: &Arc<Question>, until: Instant) -> Self {
        let receiver = desk.ask(Arc::clone(question));
        Self {
            question: Arc::clone(question),
            // What stands there already counts as news.
            wait: Wait::Answer(Box::pin(std::future::ready(Some(receiver)))),
            until,
            timer: Box::pin(sleep_until(until.min(Instant::now() + WORD))),
            standing: None,
            word: None,
        }
    }

    fn name(&self) -> Option<&str> {
        self.standing.as_ref().map(|standing| standing.name.as_str())
    }

    fn seconds_left(&self) -> u64 {
        self.until.saturating_duration_since(Instant::now()).as_secs()
    }

    fn refusal(&self, why: NotApproved) -> Denial {
        not_approved(&self.question.policy, &self.question.rule, why)
    }

    fn say(&mut self, text: String, hint: Option<String>) {
        self.word = Some(Notice { text, hint });
    }
}

/// Waits for the next change, and gives back what it waited on.
async fn hear(mut receiver: watch::Receiver<Sheet>) -> Option<watch::Receiver<Sheet>> {
    receiver.changed().await.ok()?;
    Some(receiver)
}

impl<P: Protocol, S: Io> Conversing<'_, P, S> {
    /// Begins to wait, or goes on with a wait for the same answer.
    pub(super) fn hold(&mut self, asked: Asked<<P::Conversation as Conversation>::Command>, vigil: Option<Vigil>) {
        let timeout = Duration::from_secs(asked.question.terms.timeout_seconds);
        let until = vigil.as_ref().map_or_else(|| Instant::now() + timeout, |vigil| vigil.until);
        let same = vigil.filter(|vigil| vigil.question == asked.question);
        let desk = &*self.service.ports.desk;
        let vigil = same.unwrap_or_else(|| Vigil::begin(desk, &asked.question, until));
        self.held = Some(Held { asked, vigil });
    }

    /// Takes what there is to say about the command that waits.
    pub(super) fn hear(&mut self, news: News) -> Result<(), Fault> {
        let Some(Held { vigil, .. }) = &mut self.held else { return Ok(()) };
        match news {
            News::Time if Instant::now() >= vigil.until => self.give_up(),
            News::Time => {
                let (name, left) = (vigil.name().unwrap_or("a question that is being put"), vigil.seconds_left());
                let text = format!("still waiting for an answer to {name}, for up to {left} s");
                vigil.say(text, None);
                vigil.timer.as_mut().reset(vigil.until.min(Instant::now() + WORD));
                Ok(())
            }
            News::Sheet(Sheet::Sent) => Ok(()),
            News::Sheet(Sheet::Put(standing)) => self.look_at(standing),
            News::Used(Ok(())) => self.run_approved(),
            // Somebody was faster, be it the same agent on another connection: this one needs an approval of its own.
            News::Used(Err(DeskFault::Spent)) => self.ask_again(),
            News::Sheet(Sheet::Failed { told }) | News::Used(Err(DeskFault::Failed { told })) => {
                let denial = vigil.refusal(NotApproved::NobodyAsked { cause: told });
                self.refuse_held(denial)
            }
        }
    }

    /// The question was put, or answered.
    fn look_at(&mut self, standing: Standing) -> Result<(), Fault> {
        let Some(Held { asked, vigil }) = &mut self.held else { return Ok(()) };
        if standing.spent {
            return self.ask_again();
        }
        let new = vigil.name() != Some(standing.name.as_str());
        let more = vigil.standing.as_ref().is_none_or(|before| before.replies.len() != standing.replies.len());
        if new && let Err(denial) = self.gate.note_question(&self.conversation, asked, &standing.name) {
            return self.refuse_held(denial);
        }
        vigil.standing = Some(standing.clone());
        let question = Arc::clone(&vigil.question);
        let in_time = self.service.ports.clock.now() < standing.expires;
        match question.terms.tally(&question.agent, standing.requested_by.as_deref(), &standing.replies) {
            Tally::Denied { by, comment } => {
                let denial = vigil.refusal(NotApproved::Denied { request: standing.name, by, comment });
                self.refuse_held(denial)
            }
            Tally::Approved if in_time => {
                let by: Vec<_> = standing.replies.iter().map(|reply| reply.by.as_str()).collect();
                vigil.say(format!("access request {} was approved by {}", standing.name, by.join(", ")), None);
                vigil.wait = Wait::Use(self.service.ports.desk.consume(question, standing.name));
                Ok(())
            }
            Tally::Pending { wanted } if in_time => {
                if more {
                    let (text, hint) = asking(&question, &standing, wanted, vigil.seconds_left());
                    vigil.say(text, Some(hint));
                }
                Ok(())
            }
            // It came to its end while it was looked at.
            Tally::Approved | Tally::Pending { .. } => self.give_up(),
        }
    }

    /// The approval is used up: decided on again, in the world as it is now.
    fn run_approved(&mut self) -> Result<(), Fault> {
        self.say_word();
        let Some(Held { asked, vigil }) = self.held.take() else { return Ok(()) };
        let Some(standing) = &vigil.standing else { return Ok(()) };
        let (command, before) = asked.approved(standing);
        let anew = Vigil::begin(&NobodyThere, &vigil.question, vigil.until);
        self.decide(command, before, Some(anew))
    }

    /// The world has changed: the command may be decided on without anybody's answer by now.
    pub(super) fn reconsider(&mut self) -> Result<(), Fault> {
        // An approval that is being used up is decided on when that is done.
        let waiting = self.held.take_if(|held| matches!(held.vigil.wait, Wait::Answer(_)));
        let Some(Held { asked, vigil }) = waiting.filter(|_| self.doomed.is_none()) else { return Ok(()) };
        let (command, before) = asked.again();
        self.decide(command, before, Some(vigil))
    }

    fn ask_again(&mut self) -> Result<(), Fault> {
        let Some(Held { asked, vigil }) = self.held.take() else { return Ok(()) };
        let again = Vigil::begin(&*self.service.ports.desk, &vigil.question, vigil.until);
        let (command, before) = asked.again();
        self.decide(command, before, Some(again))
    }

    fn give_up(&mut self) -> Result<(), Fault> {
        let Some(Held { vigil, .. }) = &self.held else { return Ok(()) };
        let why = match &vigil.standing {
            Some(standing) => {
                let left = standing.expires.duration_since(self.service.ports.clock.now()).unwrap_or_default();
                NotApproved::Unanswered { request: standing.name.clone(), seconds: left.as_secs() }
            }
            None => NotApproved::NobodyAsked { cause: "the question could not be put in time: try again".to_owned() },
        };
        let denial = vigil.refusal(why);
        self.refuse_held(denial)
    }

    /// The client wants what it sent last cancelled.
    pub(super) fn cancel_held(&mut self) -> Result<(), Fault> {
        let Some(Held { vigil, .. }) = &self.held else { return Ok(()) };
        let denial = vigil.refusal(NotApproved::Cancelled { request: vigil.name().map(str::to_owned) });
        self.refuse_held(denial)
    }

    fn refuse_held(&mut self, denial: Denial) -> Result<(), Fault> {
        let Some(Held { asked, .. }) = self.held.take() else { return Ok(()) };
        let refused =
            self.gate.refuse_asked(&self.conversation, asked, denial, (&mut self.sluice, &mut self.target.output));
        self.conversation.refuse(refused, &mut self.client.output)
    }

    /// Lets go of a command that nothing is to become of any more, or says to its client what there is to say.
    pub(super) fn tend_held(&mut self) {
        if self.doomed.is_some() {
            // Told with the end of the session; its question stays, for a session to come.
            self.held = None;
        } else if self.conversation.overtaken()
            && let Some(Held { asked, vigil }) = self.held.take()
        {
            let cause = "what went before it failed, so that it does not run".to_owned();
            let denial = vigil.refusal(NotApproved::NobodyAsked { cause });
            // Its client hears of the failure, and expects nothing for what came behind it.
            drop(self.gate.refuse_asked(
                &self.conversation,
                asked,
                denial,
                (&mut self.sluice, &mut self.target.output),
            ));
        }
        self.say_word();
    }

    fn say_word(&mut self) {
        if let Some(Held { vigil, .. }) = &mut self.held
            && let Some(word) = vigil.word.take()
            && !self.conversation.notice(&word, &mut self.client.output)
        {
            vigil.word = Some(word);
        }
    }
}

/// What a client is told whose command begins to wait, and what to do about it.
fn asking(question: &Question, standing: &Standing, wanted: u32, left: u64) -> (String, String) {
    let (namespace, name) = (&question.target.namespace, &standing.name);
    let people = if wanted == 1 { "1 approval".to_owned() } else { format!("{wanted} approvals") };
    let reason = question.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let text = format!(
        "policy {}, rule {} asks people about this command{reason}: waiting for {people} of access request {name}, for up to {left} s",
        question.policy, question.rule
    );
    let hint = format!(
        "kubectl get ask {name} -n {namespace}; approved later, the same command passes once when it is sent again"
    );
    (text, hint)
}
