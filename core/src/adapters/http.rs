//! An answer as a response of crate `http`.

use crate::participant::answer::Answer;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};

impl From<Answer> for Response<Vec<u8>> {
    fn from(answer: Answer) -> Response<Vec<u8>> {
        let mut response = Response::new(answer.body);
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in answer.headers {
            let name = HeaderName::from_static(name);
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
