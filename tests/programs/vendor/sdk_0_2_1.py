"""An integration written for revenuebase-sdk 0.2.1; prints a JSON line for each job."""

import argparse
import asyncio
import json
from typing import Any

from revenuebase_sdk import (  # type: ignore[import-not-found]
    APIError,
    AsyncRevenuebaseClient,
    RevenuebaseClient,
)


def show_job(job: Any) -> None:
    print(
        json.dumps(
            {
                "process_id": job.process_id,
                "filename": job.filename,
                "current_status": job.current_status,
                "message": job.message,
            }
        )
    )


def show_error(error: Any) -> None:
    print(
        json.dumps(
            {
                "error": type(error).__name__,
                "status": getattr(error, "status_code", None),
                "message": error.message,
                "body": error.body,
            }
        )
    )


def cancel_all(process_ids: list[int], *, only_look: bool) -> None:
    with RevenuebaseClient() as client:
        for process_id in process_ids:
            try:
                if only_look:
                    job = client.v1.get_batch_status(process_id=process_id)
                else:
                    job = client.v1.cancel_batch(process_id=process_id)
            except APIError as error:
                show_error(error)
            else:
                show_job(job)


async def cancel_all_async(process_ids: list[int], *, only_look: bool) -> None:
    async with AsyncRevenuebaseClient() as client:
        for process_id in process_ids:
            try:
                if only_look:
                    job = await client.v1.get_batch_status(process_id=process_id)
                else:
                    job = await client.v1.cancel_batch(process_id=process_id)
            except APIError as error:
                show_error(error)
            else:
                show_job(job)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("process_ids", type=int, nargs="+")
    parser.add_argument("--async", dest="use_async", action="store_true")
    parser.add_argument("--status", action="store_true", help="look at the jobs, cancel nothing")
    arguments = parser.parse_args()
    if arguments.use_async:
        asyncio.run(cancel_all_async(arguments.process_ids, only_look=arguments.status))
    else:
        cancel_all(arguments.process_ids, only_look=arguments.status)
