"""What a DIMSE server is told, and what we do with what it answers."""

import threading
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

from medseg.errors import ServerError
from medseg.pacs.client import Filters, connect
from medseg.pacs.server import Credentials, parse


@contextmanager
def listening(*handlers):
    entity = AE(ae_title="PACS")
    entity.add_supported_context(Find)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield f"dicom://PACS@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def answer(study: str, **attributes: str) -> tuple[int, Dataset]:
    one = Dataset()
    one.QueryRetrieveLevel = "STUDY"
    one.StudyInstanceUID = study
    for keyword, value in attributes.items():
        setattr(one, keyword, value)
    return 0xFF00, one


def test_user_and_password_are_sent_as_user_identity_and_a_refusal_is_one_line():
    def identify(event):
        return event.primary_field == b"me" and event.secondary_field == b"hush", None

    def find(event):
        yield answer("1.2.3")

    with listening((evt.EVT_USER_ID, identify), (evt.EVT_C_FIND, find)) as address:
        right = connect(parse(address, credentials=Credentials("me", "hush")))
        assert right.studies(Filters(date="20260101")) == ("1.2.3",)
        with pytest.raises(ServerError, match=r"refused the association; check .* credentials"):
            connect(parse(address, credentials=Credentials("me", "guessed"))).studies(Filters(date="20260101"))


def test_answers_that_were_not_asked_for_are_dropped():
    def find(event):  # a server that knows no condition but the UID
        yield answer("1.2.3", PatientID="A1", StudyDate="20260101")
        yield answer("1.2.4", PatientID="A2", StudyDate="20260101")
        yield answer("1.2.5", PatientID="A1", StudyDate="20250101")
        yield answer("1.2.6", PatientID="B1", StudyDate="20260101")
        yield answer("", PatientID="A1", StudyDate="20260101")

    with listening((evt.EVT_C_FIND, find)) as address:
        client = connect(parse(address))
        assert client.studies(Filters(patient_id="A1", date="20260101-20260131")) == ("1.2.3",)
        assert client.studies(Filters(patient_id="a?", date="20260101")) == ("1.2.3", "1.2.4")


def test_failed_query_is_an_error_and_not_an_empty_answer():
    def find(event):
        yield 0xA700, None

    with listening((evt.EVT_C_FIND, find)) as address, pytest.raises(ServerError, match="C-FIND failed: status A700"):
        connect(parse(address)).studies(Filters(date="20260101"))


def test_no_thread_stays_behind_a_query():
    def find(event):
        yield answer("1.2.3")

    before = threading.active_count()
    with listening((evt.EVT_C_FIND, find)) as address:
        connect(parse(address)).studies(Filters(date="20260101"))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(timeout=10)
    assert threading.active_count() <= before
