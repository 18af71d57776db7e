//! What a participant reads, runs and answers.

use super::{kind_of, or_error};
use amends::outcome::{Outcome, classify_http, classify_jsonrpc};
use amends::participant::answer::{BranchResult, answer};
use amends::participant::barrier::{self, Statement, Verdict};
use amends::participant::{Dialect, Identity, ParamStyle, Table};
use amends::participant::{classify_commit_error, classify_db_error, mongo, redis, xa};
use amends::wire::grpc::{Code, classify_grpc};
use amends::{Codes, Compat, Error, Gid, Limits, Op, Purpose};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Who {
    trans_type: String,
    gid: String,
    branch_id: String,
    op: String,
}

impl Who {
    fn identity(&self) -> Identity {
        Identity::new(&self.trans_type, &self.gid, &self.branch_id, &self.op).expect("an identity")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failed {
    kind: String,
    message: String,
}

pub(crate) fn answers(input: Failed) -> Value {
    let result: BranchResult = Err(Error::new(kind_of(&input.kind), input.message));
    let answer = answer(&result);
    let body = String::from_utf8(answer.body).expect("UTF-8");
    let headers: BTreeMap<_, _> = answer.headers.iter().copied().collect();
    json!({"status": answer.status, "headers": headers, "body": body})
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    dialect: String,
    style: String,
    table: Option<String>,
    who: Who,
    barrier_id: String,
    #[serde(default)]
    check_back: bool,
}

fn statement(s: &Statement) -> Value {
    json!({"sql": s.sql, "params": s.params})
}

pub(crate) fn barrier_plan(input: Plan) -> Value {
    let dialect = Dialect::parse(&input.dialect).expect("a dialect");
    let style = match input.style.as_str() {
        "?" => ParamStyle::Question,
        "$1" => ParamStyle::Dollar,
        "%s" => ParamStyle::Percent,
        ":1" => ParamStyle::Colon,
        "@p1" => ParamStyle::AtP,
        other => panic!("{other} is no style"),
    };
    let table = match input.table {
        Some(name) => Table::new(&name).expect("a table"),
        None => dialect.default_table(),
    };
    let who = input.who.identity();
    let plan = if input.check_back {
        Ok(barrier::query_prepared(dialect, &table, style, &who))
    } else {
        barrier::plan(dialect, &table, style, &who, &input.barrier_id)
    };
    or_error(plan, |plan| {
        json!({
            "origin": plan.origin.as_ref().map(statement),
            "current": statement(&plan.current),
            "reason": statement(&plan.reason),
            "guard": plan.guard.as_ref().map(statement),
        })
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rows {
    op: String,
    origin_rows: Option<u64>,
    current_rows: u64,
    reason: String,
    #[serde(default)]
    check_back: bool,
}

pub(crate) fn verdict(input: Rows) -> Value {
    if input.check_back {
        return json!({"committed": barrier::was_committed(&input.reason)});
    }
    let op = Op::new(&input.op);
    let (verdict, result) = match barrier::decide(&op, input.origin_rows, input.current_rows) {
        Verdict::Run => ("run", Some("executed")),
        Verdict::Skip(result) => ("skip", Some(result.as_str())),
        Verdict::NeedReason => {
            let result = barrier::by_reason(&op, &input.reason);
            ("need_reason", Some(result.as_str()))
        }
        Verdict::Duplicated => ("duplicated", None),
    };
    json!({"verdict": verdict, "result": result})
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BranchAnswer {
    protocol: String,
    purpose: String,
    status: u16,
    body: String,
    #[serde(default)]
    compat: Vec<String>,
}

pub(crate) fn branch_answer(input: BranchAnswer) -> Value {
    let purpose = match input.purpose.as_str() {
        "branch" => Purpose::Branch,
        "check_back" => Purpose::CheckBack,
        "callback" => Purpose::Callback,
        other => panic!("{other} is no purpose"),
    };
    let mut compat = Compat::default();
    for switch in &input.compat {
        match switch.as_str() {
            "body_text" => compat.body_text = true,
            "only_200" => compat.only_200 = true,
            other => panic!("{other} is no switch"),
        }
    }
    let body = input.body.as_bytes();
    let outcome = match input.protocol.as_str() {
        "http" => classify_http(purpose, input.status, body, &compat),
        "json-rpc" => classify_jsonrpc(purpose, input.status, body, &compat),
        "grpc" => classify_grpc(Code(input.status.into()), &input.body),
        other => panic!("{other} is no protocol"),
    };
    match outcome {
        Outcome::Success => json!({"outcome": "success"}),
        Outcome::Failure(text) => json!({"outcome": "failure", "text": text}),
        Outcome::Ongoing => json!({"outcome": "ongoing"}),
        Outcome::Error(_) => json!({"outcome": "error"}),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DbFailed {
    dialect: String,
    sqlstate: Option<String>,
    errno: Option<i64>,
    #[serde(default)]
    commit: bool,
}

pub(crate) fn db_error(input: DbFailed) -> Value {
    let dialect = Dialect::parse(&input.dialect).expect("a dialect");
    let classify = if input.commit {
        classify_commit_error
    } else {
        classify_db_error
    };
    let class = classify(dialect, input.sqlstate.as_deref(), input.errno);
    json!(format!("{class:?}"))
}

pub(crate) fn error_row(kind: String) -> Value {
    let kind = kind_of(&kind);
    let codes =
        |codes: Codes| json!({"http": codes.http, "grpc": codes.grpc, "json-rpc": codes.jsonrpc});
    json!({
        "code": kind.code(),
        "retryable": kind.is_retryable(),
        "branch_answer": codes(kind.branch_answer()),
        "coordinator_answer": codes(kind.coordinator_answer()),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfXa {
    gid: String,
    branch_id: String,
}

pub(crate) fn xid(input: OfXa) -> Value {
    let gid = Gid::new(&input.gid, &Limits::default()).expect("a gid");
    json!(xa::Xid::new(&gid, &input.branch_id).as_str())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Carried {
    Query(String),
    Metadata(BTreeMap<String, String>),
}

pub(crate) fn identity(input: Carried) -> Value {
    let who = match input {
        Carried::Query(query) => Identity::from_query(&query),
        Carried::Metadata(all) => Identity::from_metadata(|key| all.get(key).map(String::as_str)),
    };
    or_error(who, |who| {
        json!({
            "trans_type": who.trans_type.as_str(),
            "gid": who.gid.as_str(),
            "branch_id": who.branch_id,
            "op": who.op.as_str(),
        })
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MongoFailed {
    code: Option<i64>,
    labels: Vec<String>,
}

pub(crate) fn mongo_error(input: MongoFailed) -> Value {
    let labels: Vec<&str> = input.labels.iter().map(String::as_str).collect();
    json!(format!("{:?}", mongo::classify_error(input.code, &labels)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Mongo {
    Run { who: Who, part: String },
    CheckBack { who: Who },
    Index { collection: String },
}

pub(crate) fn mongo_plan(input: Mongo) -> Value {
    let upsert = |u: &mongo::Upsert| json!({"filter": u.filter, "update": u.update});
    let show = |plan: mongo::Plan| {
        json!({
            "origin": plan.origin.as_ref().map(upsert),
            "current": upsert(&plan.current),
            "reason": plan.reason,
        })
    };
    match input {
        Mongo::Run { who, part } => or_error(mongo::plan(&who.identity(), &part), show),
        Mongo::CheckBack { who } => show(mongo::query_prepared(&who.identity())),
        Mongo::Index { collection } => or_error(
            mongo::Collection::new(&collection),
            |c| json!({"database": c.database(), "command": mongo::index(&c)}),
        ),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redis {
    who: Who,
    part: String,
    hash_tag: Option<String>,
    ttl: i64,
    /// Of the user's body; none for a check-back.
    keys: Option<Vec<String>>,
    #[serde(default)]
    args: Vec<String>,
}

pub(crate) fn redis_script(input: Redis) -> Value {
    let (who, tag) = (input.who.identity(), input.hash_tag.as_deref());
    let script = match input.keys {
        None => redis::query_prepared(&who, tag, input.ttl),
        Some(keys) => {
            let work = redis::Work {
                body: String::new(),
                keys,
                args: input.args.into_iter().map(Into::into).collect(),
            };
            redis::plan(&who, &input.part, tag, input.ttl, &work)
        }
    };
    or_error(script, |script| {
        let args = script.args.iter().map(|arg| String::from_utf8_lossy(arg));
        json!({"keys": script.keys, "args": args.collect::<Vec<_>>()})
    })
}
