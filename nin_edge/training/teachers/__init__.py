"""Trained networks whose predictions another network learns: checkpoints and ONNX models."""

from nin_edge.training.teachers.ensemble import (
    Teacher,
    Teachers,
    check_teacher,
    load_teacher,
    teacher_fingerprint,
    teacher_notes,
    teacher_size,
    teachers_work,
)
from nin_edge.training.teachers.onnx_teacher import OnnxTeacher
from nin_edge.training.teachers.spec import TeacherSpec

__all__ = [
    "OnnxTeacher",
    "Teacher",
    "TeacherSpec",
    "Teachers",
    "check_teacher",
    "load_teacher",
    "teacher_fingerprint",
    "teacher_notes",
    "teacher_size",
    "teachers_work",
]
