"""Scans from a PACS and results back to it, over DICOMweb or DIMSE; `medseg pacs` is what people use.

    server ─ client.connect ─► Client (dicomweb or dimse) ─ transfer.pull ─► folders of DICOM files
    files ─ transfer.push ─► server
    watch.Watcher: what is new and stable is pulled, segmented and pushed back, once

Folders and files are named by opaque ids, keyed with a secret that lies in the folder, and nothing here logs or names a
patient, a UID or a secret.
"""
