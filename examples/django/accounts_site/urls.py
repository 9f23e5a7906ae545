"""The addresses of the application."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.home),
    path("sign-in", views.sign_in),
    path("sign-out", views.sign_out),
    path("banks/<target_id>/connect", views.connect),
    path("banks/<target_id>/accounts", views.accounts),
    path("banks/<target_id>/disconnect", views.disconnect),
    path("forget", views.forget),
    path("callback", views.callback),
    path("failed", views.failed),
]
