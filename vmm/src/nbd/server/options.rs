//! The handshake: what a client asks for before it has an export.
//!
//! ```text
//!                    ┌ TLS is demanded and not there: all but STARTTLS and ABORT is ERR_TLS_REQD
//!   option ─► choose ┼ LIST, INFO, LIST_META_CONTEXT     answers
//!                    ├ STRUCTURED_REPLY, SET_META_CONTEXT  agreed
//!                    ├ STARTTLS                          ─► Securing
//!                    ├ GO, EXPORT_NAME                   ─► Transmission
//!                    └ ABORT                             ─► Ended;   all others: ERR_UNSUP
//! ```

use super::{Contexts, Offer, Phase, Session, SessionError, Step};
use crate::nbd::export::Export;
use crate::nbd::wire::numbers::{
    BASE_ALLOCATION, COLO_EPOCH, COLO_SUMS, MAX_PAYLOAD, MAX_STRING, PREFERRED_BLOCK, answer, info, option,
    transmission,
};
use crate::nbd::wire::options::{Choice, Info, Queries, push_answer, push_context, push_server};
use std::sync::Arc;

/// What `base:allocation` is called in block status.
pub(super) const ALLOCATION_ID: u32 = 1;
/// What `colo:epoch` is called in block status.
pub(super) const EPOCH_ID: u32 = 2;
/// What the contexts of sums are called in block status.
pub(super) const SUM_IDS: [u32; 4] = [3, 4, 5, 6];

impl Session {
    pub(super) fn choose(&mut self, code: u32, data: &[u8]) -> Result<Step, SessionError> {
        if self.terms.tls && !self.secure && !matches!(code, option::STARTTLS | option::ABORT) {
            if code == option::EXPORT_NAME {
                let name = String::from_utf8_lossy(data).into_owned();
                return Err(SessionError::Export(name, "it is served under TLS only, and TLS was not begun"));
            }
            return Ok(self.refuse(code, answer::ERR_TLS_REQD, "TLS first: this server demands STARTTLS"));
        }
        match code {
            option::EXPORT_NAME => self.export_name(data),
            option::ABORT => {
                push_answer(self.output.end(), code, answer::ACK, &[]);
                self.phase = Phase::Ended;
                Ok(Step::Again)
            }
            option::STARTTLS => self.start_tls(data),
            option::LIST if data.is_empty() => Ok(self.list()),
            option::STRUCTURED_REPLY if data.is_empty() && !self.agreed.structured => {
                self.agreed.structured = true;
                push_answer(self.output.end(), code, answer::ACK, &[]);
                Ok(Step::Again)
            }
            option::LIST | option::STRUCTURED_REPLY => {
                Ok(self.refuse(code, answer::ERR_INVALID, "it has no data, and comes once"))
            }
            option::INFO | option::GO => Ok(self.go(code, data)),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => Ok(self.contexts(code, data)),
            _ => Ok(self.refuse(code, answer::ERR_UNSUP, "this option is not known here")),
        }
    }

    pub(super) fn refuse_long(&mut self, code: u32) -> Result<(), SessionError> {
        if code == option::EXPORT_NAME {
            return Err(SessionError::Export("…".to_owned(), "its name is too long"));
        }
        self.refuse(code, answer::ERR_TOO_BIG, "the option is longer than any that is served");
        Ok(())
    }

    fn refuse(&mut self, code: u32, error: u32, why: &str) -> Step {
        push_answer(self.output.end(), code, error, why.as_bytes());
        Step::Again
    }

    fn start_tls(&mut self, data: &[u8]) -> Result<Step, SessionError> {
        if self.secure {
            return Ok(self.refuse(option::STARTTLS, answer::ERR_INVALID, "TLS has begun already"));
        }
        if !self.terms.tls {
            return Ok(self.refuse(option::STARTTLS, answer::ERR_POLICY, "TLS is off here"));
        }
        if !data.is_empty() {
            return Ok(self.refuse(option::STARTTLS, answer::ERR_INVALID, "it has no data"));
        }
        // What came in the clear must not be taken for what comes under TLS.
        if !self.input.bytes().is_empty() {
            return Err(SessionError::BehindStartTls);
        }
        push_answer(self.output.end(), option::STARTTLS, answer::ACK, &[]);
        self.phase = Phase::Securing;
        Ok(Step::Again)
    }

    fn list(&mut self) -> Step {
        for offer in &self.terms.offers {
            push_server(self.output.end(), option::LIST, &offer.name);
        }
        push_answer(self.output.end(), option::LIST, answer::ACK, &[]);
        Step::Again
    }

    fn export_name(&mut self, data: &[u8]) -> Result<Step, SessionError> {
        let name = std::str::from_utf8(data).unwrap_or("\u{fffd}");
        let Some(offer) = self.terms.offer(name).cloned() else {
            return Err(SessionError::Export(name.to_owned(), "there is none of that name"));
        };
        let flags = self.transmission_flags(&*offer.export);
        let out = self.output.end();
        out.extend(offer.export.size().to_be_bytes());
        out.extend(flags.to_be_bytes());
        if !self.agreed.no_zeroes {
            out.extend([0; 124]);
        }
        self.transmit(&offer);
        Ok(Step::Again)
    }

    fn go(&mut self, code: u32, data: &[u8]) -> Step {
        let Some(choice) = Choice::parse(data) else {
            return self.refuse(code, answer::ERR_INVALID, "its data is no name and list of questions");
        };
        let Some(offer) = self.terms.offer(choice.name).cloned() else {
            return self.refuse(code, answer::ERR_UNKNOWN, "there is no export of that name");
        };
        let flags = self.transmission_flags(&*offer.export);
        let out = self.output.end();
        Info::Export { size: offer.export.size(), flags }.push(out, code);
        if choice.infos.contains(&info::NAME) {
            Info::Name(&offer.name).push(out, code);
        }
        if choice.infos.contains(&info::DESCRIPTION) && !offer.description.is_empty() {
            let end = offer.description.floor_char_boundary(MAX_STRING);
            Info::Description(offer.description.get(..end).unwrap_or_default()).push(out, code);
        }
        // Every multiple of a byte is served, so a client that did not ask need not care.
        let (preferred, maximum) = (PREFERRED_BLOCK, MAX_PAYLOAD);
        Info::BlockSize { minimum: 1, preferred, maximum }.push(out, code);
        push_answer(out, code, answer::ACK, &[]);
        if code == option::GO {
            self.transmit(&offer);
        }
        Step::Again
    }

    fn transmit(&mut self, offer: &Offer) {
        // Contexts of another export say nothing of this one.
        let chosen = self.terms.offer(&self.agreed.contexts.of).is_some_and(|of| of.name == offer.name);
        if !chosen {
            self.agreed.contexts = Contexts::default();
        }
        self.phase = Phase::Transmission(Arc::clone(&offer.export));
    }

    fn transmission_flags(&self, export: &dyn Export) -> u16 {
        let mut flags = transmission::HAS_FLAGS
            | transmission::SEND_FLUSH
            | transmission::SEND_FUA
            | transmission::SEND_CACHE
            | transmission::SEND_TRIM
            | transmission::SEND_WRITE_ZEROES
            | transmission::SEND_FAST_ZERO;
        let also = [
            (export.read_only(), transmission::READ_ONLY),
            (self.agreed.structured, transmission::SEND_DF),
            (export.multi_conn(), transmission::CAN_MULTI_CONN),
        ];
        also.iter().filter(|(so, _)| *so).for_each(|(_, flag)| flags |= flag);
        flags
    }

    fn contexts(&mut self, code: u32, data: &[u8]) -> Step {
        let set = code == option::SET_META_CONTEXT;
        if set {
            // Whatever comes of it, what was chosen before is not chosen any more.
            self.agreed.contexts = Contexts::default();
        }
        let Some(Queries { name, queries }) = Queries::parse(data) else {
            return self.refuse(code, answer::ERR_INVALID, "its data is no name and list of contexts");
        };
        if set && !self.agreed.structured {
            return self.refuse(code, answer::ERR_INVALID, "contexts need STRUCTURED_REPLY first");
        }
        let Some(offer) = self.terms.offer(name).cloned() else {
            return self.refuse(code, answer::ERR_UNKNOWN, "there is no export of that name");
        };
        let wanted = |context: &str, namespace: &str| {
            let listed = !set && (queries.is_empty() || queries.contains(&namespace));
            listed || queries.contains(&context)
        };
        let allocation = wanted(BASE_ALLOCATION, "base:");
        let epoch = offer.export.epochs() && wanted(COLO_EPOCH, "colo:");
        let sums = COLO_SUMS.map(|context| offer.export.sums() && wanted(context, "colo:"));
        let all = [(ALLOCATION_ID, BASE_ALLOCATION, allocation), (EPOCH_ID, COLO_EPOCH, epoch)].into_iter();
        let quarters = (0..4).map(|at| (SUM_IDS[at], COLO_SUMS[at], sums[at]));
        let out = self.output.end();
        for (id, context, so) in all.chain(quarters) {
            if so {
                push_context(out, code, if set { id } else { 0 }, context);
            }
        }
        push_answer(out, code, answer::ACK, &[]);
        if set {
            self.agreed.contexts = Contexts { of: offer.name.clone(), allocation, epoch, sums };
        }
        Step::Again
    }
}
