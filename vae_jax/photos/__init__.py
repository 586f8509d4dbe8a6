"""Photographs of any size and kind: restored into files, or scored by the folder.

A file: photograph (read as an array), saving (written), metadata (what it says beside its pixels), deep (more than 8
bits a channel).
Both: tiling (windows of one size), uncertainty (the deviation of a pixel).
Restored: files (files in, restored files out), transparency (cut-outs).
Scored: score_folder (the loop over a folder), in which cases (what is scored) go through the model and baselines, each
timed (stopwatch); their outputs become scores, a calibration of the uncertainty, a score_table and a contact_sheet.
"""
