//! What SQL can do with LSNs and JSON here.
//!
//! `lsn('16/B374D848')` and `lsn_text(n)` turn LSNs into numbers and back. `json -> key` is a member or element as
//! JSON, `json ->> key` as text, as in Postgres; `json_get(json, key)` and `json_text(json, key)` are their names.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewBuilder};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DFSchema, DataFusionError, Result, plan_datafusion_err};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::sqlparser::ast::BinaryOperator;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use tailwater_topics_contract::Lsn;

use crate::json::{self, Kind};

/// Makes them known to a session.
pub(crate) fn register(context: &mut SessionContext) -> Result<()> {
    for function in [lsn(), lsn_text(), json_get(), json_text()] {
        context.register_udf(function);
    }
    datafusion::execution::FunctionRegistry::register_expr_planner(context, Arc::new(Arrows))
}

fn over_texts(
    args: &[ColumnarValue],
    build: impl Fn(&[ArrayRef]) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    let is_scalar = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let built = build(&ColumnarValue::values_to_arrays(args)?)?;
    if is_scalar {
        return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(
            &built, 0,
        )?));
    }
    Ok(ColumnarValue::Array(built))
}

fn lsn() -> ScalarUDF {
    let parse = |text: Option<&str>| match text {
        None => Ok(None),
        Some(text) => {
            let lsn: Lsn = text.parse().map_err(|error| plan_datafusion_err!("{error}"))?;
            i64::try_from(lsn.0)
                .map(Some)
                .map_err(|_| plan_datafusion_err!("`{text}` lies beyond any LSN there can be"))
        }
    };
    let call = move |args: &[ColumnarValue]| {
        over_texts(args, |args| {
            let texts = args[0].as_string_view();
            let numbers: Result<Int64Array> = texts.iter().map(parse).collect();
            Ok(Arc::new(numbers?))
        })
    };
    create_udf(
        "lsn",
        vec![DataType::Utf8View],
        DataType::Int64,
        Volatility::Immutable,
        Arc::new(call),
    )
}

fn lsn_text() -> ScalarUDF {
    let call = |args: &[ColumnarValue]| {
        over_texts(args, |args| {
            let mut texts = StringViewBuilder::new();
            for number in args[0].as_primitive::<Int64Type>() {
                texts.append_option(number.map(|number| Lsn(number.cast_unsigned()).to_string()));
            }
            Ok(Arc::new(texts.finish()))
        })
    };
    let (of, to) = (DataType::Int64, DataType::Utf8View);
    create_udf("lsn_text", vec![of], to, Volatility::Immutable, Arc::new(call))
}

fn json_get() -> ScalarUDF {
    member("json_get", |value| std::str::from_utf8(value).ok().map(str::to_owned))
}

fn json_text() -> ScalarUDF {
    member("json_text", |value| match Kind::of(value)? {
        Kind::Null => None,
        Kind::Text => json::text_of(value),
        _ => std::str::from_utf8(value).ok().map(str::to_owned),
    })
}

/// A function of JSON and the name of a member, or the number of an element from 0.
fn member(name: &str, show: fn(&[u8]) -> Option<String>) -> ScalarUDF {
    let call = move |args: &[ColumnarValue]| {
        over_texts(args, |args| {
            let (documents, keys) = (args[0].as_string_view(), args[1].as_string_view());
            let mut found = StringViewBuilder::new();
            for at in 0..documents.len() {
                let known = documents.is_valid(at) && keys.is_valid(at);
                let value = known.then(|| find(documents.value(at).as_bytes(), keys.value(at)));
                found.append_option(value.flatten().and_then(show));
            }
            Ok(Arc::new(found.finish()))
        })
    };
    let text = DataType::Utf8View;
    create_udf(name, vec![text.clone(), text.clone()], text, Volatility::Immutable, Arc::new(call))
}

fn find<'a>(document: &'a [u8], key: &str) -> Option<&'a [u8]> {
    match Kind::of(document)? {
        Kind::Object => json::member(document, key),
        Kind::Array => {
            let number: i64 = key.parse().ok()?;
            match usize::try_from(number) {
                Ok(number) => json::elements(document).nth(number),
                // From the end, as in Postgres.
                Err(_) => {
                    let count = json::elements(document).count() as i64;
                    json::elements(document).nth(usize::try_from(count + number).ok()?)
                }
            }
        }
        _ => None,
    }
}

/// `->` and `->>`.
#[derive(Debug)]
struct Arrows;

impl ExprPlanner for Arrows {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>, DataFusionError> {
        use datafusion::logical_expr::ExprSchemable as _;
        let function = match expr.op {
            BinaryOperator::Arrow => json_get(),
            BinaryOperator::LongArrow => json_text(),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let text = |side: Expr| side.cast_to(&DataType::Utf8View, schema);
        let call = function.call(vec![text(expr.left)?, text(expr.right)?]);
        Ok(PlannerResult::Planned(call))
    }
}
