from http import HTTPStatus
from typing import Any, cast

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.error_body import ErrorBody
from ...models.revoke_request import RevokeRequest
from ...types import Response


def _get_kwargs(
    *,
    body: RevokeRequest,
    x_correlation_id: str,
    user_agent: str,
    x_cor_api_target_id: str,
    x_psu_ip_address: str,
    x_psu_user_agent: str,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    headers["X-Correlation-ID"] = x_correlation_id

    headers["User-Agent"] = user_agent

    headers["X-CorAPI-Target-ID"] = x_cor_api_target_id

    headers["X-PSU-IP-Address"] = x_psu_ip_address

    headers["X-PSU-User-Agent"] = x_psu_user_agent

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/oauth/revoke",
    }

    _kwargs["data"] = body.to_dict()
    headers["Content-Type"] = "application/x-www-form-urlencoded"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Any | ErrorBody | None:
    if response.status_code == 200:
        response_200 = cast(Any, None)
        return response_200

    if response.status_code == 400:
        response_400 = ErrorBody.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = ErrorBody.from_dict(response.json())

        return response_401

    if response.status_code == 403:
        response_403 = ErrorBody.from_dict(response.json())

        return response_403

    if response.status_code == 406:
        response_406 = ErrorBody.from_dict(response.json())

        return response_406

    if response.status_code == 415:
        response_415 = ErrorBody.from_dict(response.json())

        return response_415

    if response.status_code == 500:
        response_500 = ErrorBody.from_dict(response.json())

        return response_500

    if response.status_code == 502:
        response_502 = ErrorBody.from_dict(response.json())

        return response_502

    if response.status_code == 504:
        response_504 = ErrorBody.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[Any | ErrorBody]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient | Client,
    body: RevokeRequest,
    x_correlation_id: str,
    user_agent: str,
    x_cor_api_target_id: str,
    x_psu_ip_address: str,
    x_psu_user_agent: str,
) -> Response[Any | ErrorBody]:
    """Revoke one access token or one refresh token

     Each token needs a request of its own.

    Args:
        x_correlation_id (str):
        user_agent (str):
        x_cor_api_target_id (str):
        x_psu_ip_address (str):
        x_psu_user_agent (str):
        body (RevokeRequest): Form of the revocation request. Provisional.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[Any | ErrorBody]
    """

    kwargs = _get_kwargs(
        body=body,
        x_correlation_id=x_correlation_id,
        user_agent=user_agent,
        x_cor_api_target_id=x_cor_api_target_id,
        x_psu_ip_address=x_psu_ip_address,
        x_psu_user_agent=x_psu_user_agent,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    *,
    client: AuthenticatedClient | Client,
    body: RevokeRequest,
    x_correlation_id: str,
    user_agent: str,
    x_cor_api_target_id: str,
    x_psu_ip_address: str,
    x_psu_user_agent: str,
) -> Any | ErrorBody | None:
    """Revoke one access token or one refresh token

     Each token needs a request of its own.

    Args:
        x_correlation_id (str):
        user_agent (str):
        x_cor_api_target_id (str):
        x_psu_ip_address (str):
        x_psu_user_agent (str):
        body (RevokeRequest): Form of the revocation request. Provisional.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Any | ErrorBody
    """

    return sync_detailed(
        client=client,
        body=body,
        x_correlation_id=x_correlation_id,
        user_agent=user_agent,
        x_cor_api_target_id=x_cor_api_target_id,
        x_psu_ip_address=x_psu_ip_address,
        x_psu_user_agent=x_psu_user_agent,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient | Client,
    body: RevokeRequest,
    x_correlation_id: str,
    user_agent: str,
    x_cor_api_target_id: str,
    x_psu_ip_address: str,
    x_psu_user_agent: str,
) -> Response[Any | ErrorBody]:
    """Revoke one access token or one refresh token

     Each token needs a request of its own.

    Args:
        x_correlation_id (str):
        user_agent (str):
        x_cor_api_target_id (str):
        x_psu_ip_address (str):
        x_psu_user_agent (str):
        body (RevokeRequest): Form of the revocation request. Provisional.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[Any | ErrorBody]
    """

    kwargs = _get_kwargs(
        body=body,
        x_correlation_id=x_correlation_id,
        user_agent=user_agent,
        x_cor_api_target_id=x_cor_api_target_id,
        x_psu_ip_address=x_psu_ip_address,
        x_psu_user_agent=x_psu_user_agent,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient | Client,
    body: RevokeRequest,
    x_correlation_id: str,
    user_agent: str,
    x_cor_api_target_id: str,
    x_psu_ip_address: str,
    x_psu_user_agent: str,
) -> Any | ErrorBody | None:
    """Revoke one access token or one refresh token

     Each token needs a request of its own.

    Args:
        x_correlation_id (str):
        user_agent (str):
        x_cor_api_target_id (str):
        x_psu_ip_address (str):
        x_psu_user_agent (str):
        body (RevokeRequest): Form of the revocation request. Provisional.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Any | ErrorBody
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
            x_correlation_id=x_correlation_id,
            user_agent=user_agent,
            x_cor_api_target_id=x_cor_api_target_id,
            x_psu_ip_address=x_psu_ip_address,
            x_psu_user_agent=x_psu_user_agent,
        )
    ).parsed
