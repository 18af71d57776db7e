//! Topics: named lists of subscribers that messages are sent to (dtm-server.md 11). Nothing is cached: what was written is seen by the
//! next request, on every node.

use crate::store::store_error;
use crate::store::{Kv, Store};
use amends::wire::call::via;
use amends::wire::http::{Subscriber, to_json};
use amends::{Error, ErrorKind, Limits, Protocol};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The category of the key-value area that holds topics.
pub const CATEGORY: &str = "topics";

/// How often a write is tried against writers of other processes before the request is refused as retryable.
const TRIES: usize = 100;

/// Reads and writes topics. Errors: `Invalid` for a name or URL that cannot be stored, `TopicNotFound`, `UrlExists`, `Unavailable`.
pub struct Topics {
    store: Arc<dyn Store>,
    limits: Limits,
    /// Writers of this process take turns; those of others are seen by the version.
    writing: tokio::sync::Mutex<()>,
}

impl Topics {
    /// Topics in this store.
    pub fn new(store: Arc<dyn Store>, limits: Limits) -> Topics {
        Topics {
            store,
            limits,
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Adds a subscriber; the first one creates the topic.
    pub async fn subscribe(&self, topic: &str, url: &str, remark: &str) -> Result<(), Error> {
        self.check_topic(topic)?;
        if url.is_empty() {
            return Err(Error::invalid("empty url"));
        }
        // Messages of any protocol may address it: each checks whether its own can call this URL.
        via(Protocol::Grpc, url, self.limits.url)?;
        if remark.len() > self.limits.url {
            return Err(Error::invalid(format!(
                "remark has {} bytes, the limit is {}",
                remark.len(),
                self.limits.url
            )));
        }
        let new = Subscriber {
            url: url.to_owned(),
            remark: remark.to_owned(),
        };
        self.change(topic, |stored| {
            let mut list = stored.unwrap_or_default();
            if list.iter().any(|s| s.url == new.url) {
                return Err(Error::new(ErrorKind::UrlExists, "this url exists"));
            }
            if list.len() >= self.limits.subscribers {
                let max = self.limits.subscribers;
                return Err(Error::invalid(format!(
                    "topic {topic:?} has {max} subscribers, which is the limit"
                )));
            }
            list.push(new.clone());
            Ok(list)
        })
        .await
    }

    /// Removes a subscriber. A topic without subscribers stays.
    pub async fn unsubscribe(&self, topic: &str, url: &str) -> Result<(), Error> {
        self.check_topic(topic)?;
        if url.is_empty() {
            return Err(Error::invalid("empty url"));
        }
        let missing = |text: &str| Error::new(ErrorKind::TopicNotFound, text);
        self.change(topic, |stored| {
            let mut list = stored.ok_or_else(|| missing("no such a topic"))?;
            if list.is_empty() {
                return Err(missing("this topic is empty"));
            }
            let at = list
                .iter()
                .position(|s| s.url == url)
                .ok_or_else(|| missing("no such an url "))?;
            list.remove(at);
            Ok(list)
        })
        .await
    }

    /// Deletes a topic with its subscribers.
    pub async fn delete(&self, topic: &str) -> Result<(), Error> {
        self.check_topic(topic)?;
        let _turn = self.writing.lock().await;
        match self
            .store
            .kv_delete(CATEGORY, topic)
            .await
            .map_err(store_error)?
        {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::TopicNotFound, "storage: NotFound")),
        }
    }

    /// The URLs of each of these topics, in the order they subscribed. Unknown topics are left out.
    pub async fn resolve(&self, names: &[&str]) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let mut all = BTreeMap::new();
        for name in names.iter().copied() {
            if all.contains_key(name) {
                continue;
            }
            if let Some(kv) = self
                .store
                .kv_get(CATEGORY, name)
                .await
                .map_err(store_error)?
            {
                all.insert(
                    name.to_owned(),
                    subscribers(&kv)?.into_iter().map(|s| s.url).collect(),
                );
            }
        }
        Ok(all)
    }

    /// Up to `limit` topics in the order of their names, from after `position`, and the position to go on from.
    pub async fn list(
        &self,
        position: Option<String>,
        limit: usize,
    ) -> Result<(Vec<(String, Vec<Subscriber>)>, Option<String>), Error> {
        let (page, next) = self
            .store
            .kv_list(CATEGORY, position, limit)
            .await
            .map_err(store_error)?;
        let topics = page
            .into_iter()
            .map(|kv| subscribers(&kv).map(|list| (kv.key, list)))
            .collect::<Result<_, _>>()?;
        Ok((topics, next))
    }

    fn check_topic(&self, topic: &str) -> Result<(), Error> {
        if topic.is_empty() {
            return Err(Error::invalid("empty topic"));
        }
        if topic.len() > self.limits.topic {
            return Err(Error::invalid(format!(
                "topic has {} bytes, the limit is {}: use a shorter one",
                topic.len(),
                self.limits.topic
            )));
        }
        match topic.chars().find(|c| c.is_control()) {
            Some(c) => Err(Error::invalid(format!(
                "topic holds the character {c:?}: control characters are not allowed"
            ))),
            None => Ok(()),
        }
    }

    /// Replaces the list of a topic by what `edit` makes of it; again, from the newer list, when another process was faster.
    async fn change<F>(&self, topic: &str, edit: F) -> Result<(), Error>
    where
        F: Fn(Option<Vec<Subscriber>>) -> Result<Vec<Subscriber>, Error>,
    {
        let _turn = self.writing.lock().await;
        for _ in 0..TRIES {
            let stored = self
                .store
                .kv_get(CATEGORY, topic)
                .await
                .map_err(store_error)?;
            let base = stored.as_ref().map_or(0, |kv| kv.version);
            let list = edit(stored.as_ref().map(subscribers).transpose()?)?;
            let value = String::from_utf8_lossy(&to_json(&list)).into_owned();
            if self
                .store
                .kv_put(CATEGORY, topic, value, base)
                .await
                .map_err(store_error)?
            {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("topic {topic:?} is being changed by too many others: try again"),
        ))
    }
}

fn subscribers(kv: &Kv) -> Result<Vec<Subscriber>, Error> {
    serde_json::from_str(&kv.value).map_err(|e| {
        Error::new(
            ErrorKind::Internal,
            format!("the stored list of topic {:?} is damaged: {e}", kv.key),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn topics(limits: Limits) -> Topics {
        Topics::new(Arc::new(MemoryStore::new(Arc::new(|| 1_000))), limits)
    }

    fn refusal(result: Result<(), Error>) -> (ErrorKind, String) {
        let error = result.expect_err("refused");
        (error.kind(), error.message().to_owned())
    }

    async fn urls(topics: &Topics, name: &str) -> Vec<String> {
        topics
            .resolve(&[name])
            .await
            .expect("reads")
            .remove(name)
            .unwrap_or_default()
    }

    #[tokio::test]
    async fn what_is_written_is_seen_by_the_next_request() {
        let t = topics(Limits::default());
        t.subscribe("tp", "http://h/1", "r").await.expect("first");
        t.subscribe("tp", "http://h/2?a=1&b=2", "")
            .await
            .expect("second");
        assert_eq!(urls(&t, "tp").await, ["http://h/1", "http://h/2?a=1&b=2"]);
        t.unsubscribe("tp", "http://h/1").await.expect("removed");
        assert_eq!(urls(&t, "tp").await, ["http://h/2?a=1&b=2"]);
        t.delete("tp").await.expect("deleted");
        assert!(t.resolve(&["tp", "none"]).await.expect("reads").is_empty());
        t.subscribe("tp", "http://h/3", "")
            .await
            .expect("made again");
        assert_eq!(urls(&t, "tp").await, ["http://h/3"]);
        let (all, next) = t.list(None, 10).await.expect("lists");
        assert_eq!((all[0].0.as_str(), all[0].1.len(), next), ("tp", 1, None));
    }

    #[tokio::test]
    async fn refusals_are_dtms() {
        let t = topics(Limits::default());
        assert_eq!(
            refusal(t.subscribe("", "http://h", "").await),
            (ErrorKind::Invalid, "empty topic".into())
        );
        assert_eq!(
            refusal(t.subscribe("tp", "", "").await),
            (ErrorKind::Invalid, "empty url".into())
        );
        assert_eq!(
            refusal(t.unsubscribe("tp", "").await),
            (ErrorKind::Invalid, "empty url".into())
        );
        assert_eq!(
            refusal(t.unsubscribe("tp", "http://h").await),
            (ErrorKind::TopicNotFound, "no such a topic".into())
        );
        t.subscribe("tp", "http://h", "").await.expect("subscribes");
        assert_eq!(
            refusal(t.subscribe("tp", "http://h", "again").await),
            (ErrorKind::UrlExists, "this url exists".into())
        );
        assert_eq!(
            refusal(t.unsubscribe("tp", "zzz").await),
            (ErrorKind::TopicNotFound, "no such an url ".into())
        );
        t.unsubscribe("tp", "http://h").await.expect("unsubscribes");
        assert_eq!(
            refusal(t.unsubscribe("tp", "http://h").await),
            (ErrorKind::TopicNotFound, "this topic is empty".into())
        );
        t.delete("tp")
            .await
            .expect("an emptied topic is still there");
        assert_eq!(
            refusal(t.delete("tp").await),
            (ErrorKind::TopicNotFound, "storage: NotFound".into())
        );
        assert_eq!(
            refusal(t.subscribe("tp", "ftp://h/a", "").await).0,
            ErrorKind::Invalid
        );
        assert_eq!(
            refusal(t.subscribe("t\np", "http://h", "").await).0,
            ErrorKind::Invalid
        );
    }

    #[tokio::test]
    async fn limits_hold_at_the_limit_and_one_past_it() {
        let t = topics(Limits {
            subscribers: 2,
            topic: 4,
            ..Limits::default()
        });
        t.subscribe("1234", "http://h/1", "")
            .await
            .expect("a name at the limit");
        assert!(
            refusal(t.subscribe("12345", "http://h/1", "").await)
                .1
                .contains("limit is 4")
        );
        t.subscribe("1234", "http://h/2", "")
            .await
            .expect("a list at the limit");
        assert!(
            refusal(t.subscribe("1234", "http://h/3", "").await)
                .1
                .contains("has 2 subscribers")
        );
    }

    #[tokio::test]
    async fn writers_of_two_processes_lose_nothing() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(|| 1_000)));
        let nodes = [0, 1].map(|_| Arc::new(Topics::new(store.clone(), Limits::default())));
        let writers: Vec<_> = (0..20)
            .map(|n| {
                let node = nodes[n % 2].clone();
                tokio::spawn(
                    async move { node.subscribe("tp", &format!("http://h/{n}"), "").await },
                )
            })
            .collect();
        for writer in writers {
            writer.await.expect("no panic").expect("subscribes");
        }
        assert_eq!(urls(&nodes[0], "tp").await.len(), 20);
    }
}
