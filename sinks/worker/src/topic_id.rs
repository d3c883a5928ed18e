//! Which topic it is that has a name.
//!
//! A topic that was deleted and made again has the same name, and offsets that begin anew; only its id tells. Brokers
//! give one since Kafka 2.8; of a broker that gives none, [`TopicIds::of`] answers nothing.
//!
//! The only unsafe code of this crate: the client's safe wrapper does not have this request.
#![expect(unsafe_code, reason = "one request that the safe wrapper of the client does not have")]

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::bindings as kafka;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafka, RDKafkaRespErr};
use serde::{Deserialize, Serialize};
use tailwater_topics_contract::TopicName;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// What a broker without ids gives for one.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The id of a topic, as Kafka's own tools print it: 22 characters of base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(String);

impl TopicId {
    /// As it was printed once.
    pub fn new(printed: impl Into<String>) -> Self {
        Self(printed.into())
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the id of a topic is not known.
#[derive(Debug, thiserror::Error)]
pub enum TopicIdError {
    /// The client does not accept its settings.
    #[error("the Kafka client refuses its settings")]
    Settings(#[source] KafkaError),
    /// Kafka did not answer.
    #[error("Kafka did not say which topic `{topic}` is: {code}")]
    Unanswered {
        /// The topic.
        topic: TopicName,
        /// What the client said.
        code: RDKafkaErrorCode,
    },
}

/// Asks for the ids of topics.
#[derive(Clone)]
pub struct TopicIds {
    client: Arc<AdminClient<DefaultClientContext>>,
}

impl TopicIds {
    /// Sets up a client; the first question connects.
    ///
    /// # Errors
    /// The client refuses its settings.
    pub fn new(config: &ClientConfig) -> Result<Self, TopicIdError> {
        let client = config.create().map_err(TopicIdError::Settings)?;
        Ok(Self { client: Arc::new(client) })
    }

    /// The id of the topic that has this name now; nothing when the brokers give none.
    ///
    /// # Errors
    /// There is no such topic, or nobody answers within ten seconds.
    pub async fn of(&self, topic: &TopicName) -> Result<Option<TopicId>, TopicIdError> {
        let (client, asked) = (Arc::clone(&self.client), topic.clone());
        let asked = tokio::task::spawn_blocking(move || ask(client.inner().native_ptr(), &asked));
        match asked.await {
            Ok(Ok(id)) => Ok((id != NONE).then_some(TopicId(id))),
            Ok(Err(code)) => {
                let code = RDKafkaErrorCode::from(code);
                Err(TopicIdError::Unanswered { topic: topic.clone(), code })
            }
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        }
    }
}

/// A structure of the client, given back when it is dropped.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, RDKafkaRespErr> {
        let pointer = NonNull::new(pointer).ok_or(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT)?;
        Ok(Self { pointer, destroy })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the call that `destroy` belongs to, and nobody else gives it back.
        unsafe { (self.destroy)(self.get()) }
    }
}

/// Asks and waits. Blocks.
fn ask(client: *mut RDKafka, topic: &TopicName) -> Result<String, RDKafkaRespErr> {
    let invalid = RDKafkaRespErr::RD_KAFKA_RESP_ERR__INVALID_ARG;
    let name = CString::new(topic.as_str()).map_err(|_| invalid)?;
    let mut names = [name.as_ptr()];
    // SAFETY: the client outlives this call, in which its owner is held. Everything made here is given back when this
    // ends, and nothing points into it afterwards: the answer is copied out. The request copies names and options. It
    // is answered into a queue of its own, which nobody else reads.
    unsafe {
        let names = kafka::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let names = Owned::new(names, kafka::rd_kafka_TopicCollection_destroy)?;
        let request = kafka::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = kafka::rd_kafka_AdminOptions_new(client, request);
        let options = Owned::new(options, kafka::rd_kafka_AdminOptions_destroy)?;
        let (most, mut why) = (ANSWER_MAX.as_millis() as i32, [0; 256]);
        let set = kafka::rd_kafka_AdminOptions_set_request_timeout(
            options.get(),
            most,
            why.as_mut_ptr(),
            why.len(),
        );
        granted(set)?;
        let queue = kafka::rd_kafka_queue_new(client);
        let queue = Owned::new(queue, kafka::rd_kafka_queue_destroy)?;
        kafka::rd_kafka_DescribeTopics(client, names.get(), options.get(), queue.get());
        // The client answers when its own time is over; a little more, so that its words are heard.
        let event = kafka::rd_kafka_queue_poll(queue.get(), most + 1_000);
        let event = Owned::new(event, kafka::rd_kafka_event_destroy)?;
        granted(kafka::rd_kafka_event_error(event.get()))?;
        let result = kafka::rd_kafka_event_DescribeTopics_result(event.get());
        let mut count = 0;
        let found = kafka::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if found.is_null() || count != 1 {
            return Err(RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG);
        }
        granted(kafka::rd_kafka_error_code(kafka::rd_kafka_TopicDescription_error(*found)))?;
        let id = kafka::rd_kafka_TopicDescription_topic_id(*found);
        let printed = kafka::rd_kafka_Uuid_base64str(id);
        if printed.is_null() {
            return Err(RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG);
        }
        Ok(CStr::from_ptr(printed).to_string_lossy().into_owned())
    }
}

fn granted(code: RDKafkaRespErr) -> Result<(), RDKafkaRespErr> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code),
    }
}
