"""What is wrong with a token, and what to do about it: sentences for people in place of PyJWT's short texts.

They go to the log, to ``gateway doctor``, which chooses its advice by their words, and to callers of ``/history`` and ``/inbox``. They show nothing of a token that
no key here signed.
"""

from __future__ import annotations

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

__all__ = ["NO_KEY", "sentence_of"]

NO_KEY = (
    "no key here is for the algorithm and key id that it names: tokens.hmac_secret is for HS256, HS384 and HS512, tokens.public_key_file and tokens.jwks_url "
    "are for RS, PS, ES and EdDSA, and tokens.algorithms may name fewer"
)
_AGAIN = "send what your backend or gateway token made, without a change"
_TEXTS = {  # how PyJWT's text begins: the sentence
    "Not enough segments": f"it is no JSON Web Token, which has three parts with dots between them; {_AGAIN}",
    "Invalid header padding": f"its first part is no base64url, so it is no JSON Web Token, or something is before it, as quotes or Bearer; {_AGAIN}",
    "Invalid payload padding": f"its second part is no base64url, so it was changed on its way; {_AGAIN}",
    "Invalid crypto padding": f"its third part is no base64url, so it was cut off, or something is after it; {_AGAIN}",
    "Invalid header string": f"its first part is no JSON object, so it is no JSON Web Token, or it was changed on its way; {_AGAIN}",
    "Invalid payload string": "its claims are no JSON object; let your backend make it with a library for JSON Web Tokens",
    "Not Before claim": 'its claim "nbf" is no number of seconds; let your backend write unix time',
    "Expiration Time claim": 'its claim "exp" is no number of seconds; let your backend write unix time',
    "Key ID": 'its header has a key id ("kid") that is no text',
}
_KINDS: dict[type[Exception], str] = {
    jwt.InvalidSignatureError: "no key here made its signature: let tokens.hmac_secret, tokens.public_key_file or tokens.jwks_url be that of the backend "
    "that makes the tokens",
    jwt.InvalidAudienceError: 'its audience (claim "aud") is not tokens.audience: let the backend and the setting name the same',
    jwt.InvalidIssuerError: 'its issuer (claim "iss") is not tokens.issuer: let the backend and the setting name the same',
    jwt.InvalidIssuedAtError: 'its claim "iat" is no number of seconds; let your backend write unix time',
    InvalidSubjectError: 'its claim "sub" is no text: let your backend write the user\'s id as "17", not as 17',
    InvalidJTIError: 'its claim "jti" is no text',
    UnicodeError: f"it has characters that no JSON Web Token has; {_AGAIN}",
    RecursionError: "its JSON is nested too deep",
}
_CLAIMS = {"aud": "tokens.audience", "iss": "tokens.issuer"}


def sentence_of(error: Exception) -> str:
    """What is wrong with the token for which PyJWT, or ``signatures``, raised this error; PyJWT's own text where there is no sentence for it."""
    if isinstance(error, jwt.MissingRequiredClaimError) and error.claim in _CLAIMS:
        return f'it has no claim "{error.claim}", and {_CLAIMS[error.claim]} is set: let your backend add the claim'
    if isinstance(error, jwt.ImmatureSignatureError):
        claim = "nbf" if "nbf" in str(error) else "iat"
        return f'it is not yet valid (claim "{claim}"): set the clocks of the backend and of the gateway, or allow for the difference with tokens.leeway'
    for kind, sentence in _KINDS.items():
        if isinstance(error, kind):
            return sentence
    text = str(error)
    return next((sentence for begin, sentence in _TEXTS.items() if text.startswith(begin)), text) or type(error).__name__
